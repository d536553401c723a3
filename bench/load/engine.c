/* A fake engine for measurements: one epoll loop, so cheap that a proxy in front is what one sees.
 *
 *     engine [PATH]   listens on a free port of 127.0.0.1 and prints it, and on the unix socket PATH
 *
 * It ends when its standard input ends.
 *
 * What it answers stands in the request's prompt (wire.h): a stream of events at a rate, or JSON. Also /health and
 * /v1/models for gateways that look, and /bench: the POSTs that came, those of them that came before (NUMBER), streams
 * that are open, streams that were cut by the other side, and how many events the longest of these had been sent.
 */
#define _GNU_SOURCE
#include "wire.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

struct connection {
    int fd;
    struct message in;
    char start[PLAN_WITHIN + 1]; /* the first bytes of the body */
    uint64_t bytes, sum;         /* of the body */
    char *out;                   /* what the socket did not take */
    size_t out_at, out_used, out_room;
    struct plan plan;
    uint64_t plan_bytes, plan_sum; /* of the body that it stood in */
    unsigned sent;     /* events of this stream */
    bool busy;         /* an answer is under way */
    bool wants_to_write;
    bool gone;
    uint64_t due;      /* when the next write of the stream is */
    size_t place;      /* in the heap, from 1; 0: it waits for nothing */
};

static int poll_fd, timer_fd;
static unsigned long long posts, twice, cut, sent_before_cut, busy;
static unsigned char seen[1 << 20]; /* requests by their number */
static char scratch[ANSWER_MAX + HEAD_MAX];

/* --- A heap of streams by the time of their next write ------------------------------------------------------------ */

static struct connection **heap;
static size_t waiting, heap_room;

static void put(size_t place, struct connection *c) {
    heap[place] = c;
    c->place = place;
}

static void sift(size_t place) {
    struct connection *c = heap[place];
    while (place > 1 && heap[place / 2]->due > c->due) {
        put(place, heap[place / 2]);
        place /= 2;
    }
    for (;;) {
        size_t child = place * 2;
        if (child > waiting) break;
        if (child < waiting && heap[child + 1]->due < heap[child]->due) child++;
        if (heap[child]->due >= c->due) break;
        put(place, heap[child]);
        place = child;
    }
    put(place, c);
}

static void wait_until(struct connection *c, uint64_t due) {
    c->due = due;
    if (c->place == 0) {
        if (waiting + 2 > heap_room) heap = must(realloc(heap, (heap_room = 2 * heap_room + 64) * sizeof *heap));
        put(++waiting, c);
    }
    sift(c->place);
}

static void wait_no_more(struct connection *c) {
    if (c->place == 0) return;
    size_t place = c->place;
    struct connection *last = heap[waiting--];
    c->place = 0;
    if (last == c) return;
    put(place, last);
    sift(place);
}

/* --- Writing ------------------------------------------------------------------------------------------------------ */

static void watch(struct connection *c, bool writing) {
    if (c->wants_to_write == writing) return;
    c->wants_to_write = writing;
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | (writing ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(poll_fd, EPOLL_CTL_MOD, c->fd, &event);
}

static void flush(struct connection *c) {
    while (c->out_at < c->out_used) {
        ssize_t n = send(c->fd, c->out + c->out_at, c->out_used - c->out_at, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno != EAGAIN) c->gone = true;
            watch(c, errno == EAGAIN);
            return;
        }
        c->out_at += (size_t)n;
    }
    c->out_at = c->out_used = 0;
    watch(c, false);
}

static void say(struct connection *c, const char *data, size_t length) {
    ssize_t n = 0;
    if (c->out_used == 0) {
        n = send(c->fd, data, length, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN) c->gone = true;
        if (n < 0) n = 0;
    }
    if ((size_t)n == length || c->gone) return;
    size_t rest = length - (size_t)n;
    if (c->out_used + rest > c->out_room) c->out = must(realloc(c->out, c->out_room = c->out_used + rest + 65536));
    memcpy(c->out + c->out_used, data + n, rest);
    c->out_used += rest;
    watch(c, true);
}

static void say_json(struct connection *c, const char *body, size_t length) {
    int head = snprintf(scratch, HEAD_MAX,
                        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n", length);
    memmove(scratch + head, body, length);
    say(c, scratch, (size_t)head + length);
}

/* The next write of an answer: all of it, or, of a stream, `each` events, and the end with the last of them. */
static void go_on(struct connection *c) {
    size_t used = 0;
    if (c->plan.chunks == 0) {
        static char body[ANSWER_MAX];
        c->busy = false, busy--;
        say_json(c, body, make_answer(body, c->plan.answer, c->plan_bytes, c->plan_sum));
        return;
    }
    if (c->sent == 0) {
        static const char head[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                                   "Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n";
        memcpy(scratch, head, used = sizeof head - 1);
    }
    uint64_t sent = now();
    for (unsigned number = 0; number < c->plan.each && c->sent < c->plan.chunks; number++, c->sent++) {
        if (used + 2 * EVENT_MAX > sizeof scratch) break;
        used += (size_t)sprintf(scratch + used, "%x\r\n", c->plan.event);
        used += make_event(scratch + used, c->plan.event, c->sent, c->sent + 1 == c->plan.chunks, sent);
        used += (size_t)sprintf(scratch + used, "\r\n");
    }
    if (c->sent == c->plan.chunks) c->busy = false, busy--;
    if (!c->busy)
        used += (size_t)sprintf(scratch + used, "%zx\r\n%s\r\n0\r\n\r\n", sizeof LAST_EVENT - 1, LAST_EVENT);
    say(c, scratch, used);
    /* By the plan's clock, not from now on: a late write does not slow the rate; a full reader does (`work`). */
    if (c->busy) wait_until(c, c->due + c->plan.gap * 1000);
}

/* --- Reading ------------------------------------------------------------------------------------------------------ */

static void take_body(void *owner, const char *data, size_t length) {
    struct connection *c = owner;
    if (c->bytes < PLAN_WITHIN) {
        size_t here = length < PLAN_WITHIN - c->bytes ? length : PLAN_WITHIN - (size_t)c->bytes;
        memcpy(c->start + c->bytes, data, here);
        c->start[c->bytes + here] = '\0';
    }
    c->bytes += length;
    c->sum += sum_of(data, length);
}

static void answer(struct connection *c) {
    if (strncmp(c->in.head, "POST ", 5) != 0) {
        char body[256];
        const char *models = "{\"object\":\"list\",\"data\":[{\"id\":\"bench\",\"object\":\"model\"}]}";
        if (strncmp(c->in.head, "GET /bench ", 11) == 0) {
            int length = snprintf(body, sizeof body,
                                  "{\"posts\":%llu,\"twice\":%llu,\"open\":%llu,\"cut\":%llu,\"sent_before_cut\":%llu}",
                                  posts, twice, busy, cut, sent_before_cut);
            say_json(c, body, (size_t)length);
        } else {
            say_json(c, models, strlen(models));
        }
        return;
    }
    posts++;
    struct plan *plan = &c->plan;
    const char *text = strstr(c->start, "bench wait=");
    if (text == NULL ||
        sscanf(text, PLAN, &plan->wait, &plan->chunks, &plan->gap, &plan->each, &plan->event, &plan->answer,
               &plan->drop) != 7 ||
        plan->event > EVENT_MAX || plan->answer > ANSWER_MAX || plan->each == 0) {
        const char *no = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
        say(c, no, strlen(no));
        return;
    }
    if ((text = strstr(text, NUMBER)) != NULL) {
        unsigned long number = strtoul(text + sizeof NUMBER - 1, NULL, 10) % sizeof seen;
        if (seen[number]) twice++;
        seen[number] = 1;
    }
    c->busy = true;
    busy++;
    c->sent = 0;
    /* As llama-server does: nothing in the head says so. */
    if (plan->drop && plan->chunks > 0) c->in.closes = true;
    c->plan_bytes = c->bytes;
    c->plan_sum = c->sum;
    c->due = now() + plan->wait * 1000;
    if (plan->wait > 0) wait_until(c, c->due);
    else go_on(c);
}

static void listen_again(struct connection *c) {
    begin_message(&c->in);
    c->bytes = c->sum = 0;
    c->start[0] = '\0';
}

static void hear(struct connection *c) {
    static char data[262144];
    ssize_t n = recv(c->fd, data, sizeof data, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
        c->gone = true;
        return;
    }
    for (size_t at = 0; at < (size_t)n && !c->gone;) {
        bool was_head = c->in.phase == HEAD;
        at += read_message(&c->in, data + at, (size_t)n - at, take_body, c);
        if (c->in.phase == BROKEN) c->gone = true;
        /* curl and some proxies ask before they send much. */
        if (was_head && c->in.phase != HEAD && header_of(&c->in, "expect") != NULL)
            say(c, "HTTP/1.1 100 Continue\r\n\r\n", 25);
        if (c->in.phase == COMPLETE) {
            answer(c);
            if (!c->in.closes) listen_again(c);
        }
    }
}

static void let_go(struct connection *c) {
    if (c->busy) {
        busy--;
        cut++;
        if (c->sent > sent_before_cut) sent_before_cut = c->sent;
    }
    wait_no_more(c);
    close(c->fd);
    free(c->out);
    free(c);
}

/* After whatever happened on a connection: is it over, or when does it go on? */
static void settle(struct connection *c) {
    if (c->in.phase == COMPLETE && c->in.closes && !c->busy && c->out_used == 0) c->gone = true;
    if (c->gone) let_go(c);
}

static void set_timer(void) {
    struct itimerspec at = {0};
    if (waiting > 0) {
        at.it_value.tv_sec = (time_t)(heap[1]->due / 1000000000ull);
        at.it_value.tv_nsec = (long)(heap[1]->due % 1000000000ull);
        if (heap[1]->due == 0) at.it_value.tv_nsec = 1;
    }
    timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
}

static void work(void) {
    uint64_t at = now();
    while (waiting > 0 && heap[1]->due <= at) {
        struct connection *c = heap[1];
        if (c->out_used > 0) { /* the reader is slower than the rate */
            wait_until(c, at + 1000000);
            continue;
        }
        wait_no_more(c);
        go_on(c);
        settle(c);
    }
}

static int door_of(struct sockaddr *address, socklen_t length) {
    int door = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (door < 0 || bind(door, address, length) < 0 || listen(door, 4096) < 0)
        fail("cannot listen: %s", strerror(errno));
    return door;
}

static void let_in(int door) {
    int yes = 1;
    for (int fd; (fd = accept4(door, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
        struct connection *c = must(calloc(1, sizeof *c));
        c->fd = fd;
        listen_again(c);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes); /* no matter to a unix socket */
        struct epoll_event ours = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = c};
        epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &ours);
    }
}

int main(int count, char **arguments) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    struct sockaddr_un path = {.sun_family = AF_UNIX};
    static char in_door, in_timer, in_end, in_path; /* their addresses tell them apart from connections */
    signal(SIGPIPE, SIG_IGN);
    allow_many_files();
    int door = door_of((struct sockaddr *)&address, sizeof address), path_door = -1;
    if (getsockname(door, (struct sockaddr *)&address, &length) < 0) fail("no port: %s", strerror(errno));
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &in_door};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, door, &event);
    if (count > 1) {
        if (strlen(arguments[1]) >= sizeof path.sun_path) fail("too long a path");
        memcpy(path.sun_path, arguments[1], strlen(arguments[1]) + 1);
        path_door = door_of((struct sockaddr *)&path, sizeof path);
        event.data.ptr = &in_path;
        epoll_ctl(poll_fd, EPOLL_CTL_ADD, path_door, &event);
    }
    event.data.ptr = &in_timer;
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, timer_fd, &event);
    event.data.ptr = &in_end;
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, STDIN_FILENO, &event) < 0) fail("standard input must be a pipe");
    printf("%u\n", ntohs(address.sin_port));
    fflush(stdout);

    for (;;) {
        struct epoll_event events[256];
        set_timer();
        int ready = epoll_wait(poll_fd, events, 256, -1);
        if (ready < 0 && errno != EINTR) fail("epoll: %s", strerror(errno));
        for (int at = 0; at < ready; at++) {
            void *who = events[at].data.ptr;
            if (who == &in_end) return 0;
            if (who == &in_timer) {
                uint64_t times;
                if (read(timer_fd, &times, sizeof times) < 0 && errno != EAGAIN) fail("timer: %s", strerror(errno));
                continue;
            }
            if (who == &in_door || who == &in_path) {
                let_in(who == &in_door ? door : path_door);
                continue;
            }
            struct connection *c = who;
            if (events[at].events & EPOLLOUT) flush(c);
            if (!c->gone && events[at].events & ~(unsigned)EPOLLOUT) hear(c);
            settle(c);
        }
        work();
    }
}
