/* A load generator that checks every byte: one epoll loop.
 *
 *     load --port N [--key KEY] [--connections N] [--ramp MS] [--each N] [--seconds MS] [--most N] [--size BYTES]
 *          [--wait US] [--chunks N] [--gap US] [--per-write N] [--event BYTES] [--answer BYTES] [--form 1]
 *          [--hold 1]
 *
 * The engine waits 2 ms before it answers, as every engine does. At once would be unfair to Go's ReverseProxy, and to
 * Caddy: they cut an answer that begins before they have noticed the end of their own request (Caddy 2.6.2).
 * Connections open evenly over the ramp. Each asks `each` times, or, with `seconds`, again and again until the time is
 * over or `most` requests were begun. Prints one line of JSON, seconds as unit. Exits with 1 and one line when anything
 * is lost, doubled, changed, cut or silent. With --hold each stream is kept after its first event: "open" is printed,
 * and it ends when its standard input ends.
 */
#define _GNU_SOURCE
#include "wire.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define SILENCE 20000000000ull /* nanoseconds without a byte on any connection: something hangs */

struct samples {
    double *values;
    size_t count, room;
};

struct connection {
    int fd; /* -1: not connected */
    unsigned index, asked;
    bool busy, writing, reused;
    size_t out_at;
    struct message in;
    char event[EVENT_MAX];
    size_t used;        /* of event */
    unsigned next;      /* the number of the next event */
    bool done;          /* [DONE] was read */
    char *body;         /* of an answer in JSON */
    size_t body_used;
    uint64_t asked_at, came, sent; /* came and sent: of the event before */
};

static struct plan plan = {.wait = 2000, .gap = 33333, .each = 1, .event = 222, .answer = 1024};
static unsigned long long port, connections = 1, ramp, each = 1, seconds, most = 1000000000, size = 1024, form, hold;
static const char *key = "";
static char *request, *expected;
static size_t request_length, expected_length;
static int poll_fd;
static unsigned long long begun, answered, chunks, connects;
static unsigned opened; /* held streams that have heard something */
static uint64_t heard_at, deadline;
static struct samples first, gaps, delays;

static void add(struct samples *to, double value) {
    if (to->count == to->room)
        to->values = must(realloc(to->values, (to->room = 2 * to->room + 4096) * sizeof *to->values));
    to->values[to->count++] = value;
}

static int by_value(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static void print_samples(const char *name, struct samples *of) {
    if (of->count == 0) return;
    qsort(of->values, of->count, sizeof *of->values, by_value);
    /* The nearest rank: a value that was seen, never one between two. */
    size_t middle = (of->count * 50 + 99) / 100 - 1, high = (of->count * 99 + 99) / 100 - 1;
    printf(", \"%s\": {\"count\": %zu, \"p50\": %.9f, \"p99\": %.9f, \"max\": %.9f}", name, of->count,
           of->values[middle] / 1e9, of->values[high] / 1e9, of->values[of->count - 1] / 1e9);
}

/* --- The request -------------------------------------------------------------------------------------------------- */

static void make_request(void) {
    char text[512], head[1024], front[1024];
    char *body = must(malloc(size));
    snprintf(text, sizeof text, PLAN, plan.wait, plan.chunks, plan.gap, plan.each, plan.event, plan.answer);
    const char *back, *kind, *path;
    if (form) {
        path = "/v1/audio/transcriptions";
        kind = "multipart/form-data; boundary=bench-boundary";
        snprintf(front, sizeof front,
                 "--bench-boundary\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nbench\r\n"
                 "--bench-boundary\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\n%s\r\n"
                 "--bench-boundary\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n"
                 "Content-Type: audio/wav\r\n\r\n", text);
        back = "\r\n--bench-boundary--\r\n";
    } else {
        path = "/v1/chat/completions";
        kind = "application/json";
        snprintf(front, sizeof front,
                 "{\"model\":\"bench\",\"stream\":%s,\"max_tokens\":16,"
                 "\"messages\":[{\"role\":\"user\",\"content\":\"%s ",
                 plan.chunks > 0 ? "true" : "false", text);
        back = "\"}]}";
    }
    padded(body, size, front, back);
    int length = snprintf(head, sizeof head,
                          "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%llu\r\nAuthorization: Bearer %s\r\n"
                          "Content-Type: %s\r\nAccept: */*\r\nContent-Length: %llu\r\n\r\n",
                          path, port, key, kind, size);
    if (length < 0 || (size_t)length >= sizeof head) fail("the key is too long");
    request_length = (size_t)length + size;
    request = must(malloc(request_length));
    memcpy(request, head, (size_t)length);
    memcpy(request + length, body, size);
    if (plan.chunks == 0) {
        expected = must(malloc(plan.answer));
        expected_length = make_answer(expected, plan.answer, size, sum_of(body, size));
    }
    free(body);
}

/* --- One connection ----------------------------------------------------------------------------------------------- */

static void watch(struct connection *c, bool writing) {
    if (c->writing == writing) return;
    c->writing = writing;
    struct epoll_event event = {.events = EPOLLIN | (writing ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(poll_fd, EPOLL_CTL_MOD, c->fd, &event);
}

static void open_connection(struct connection *c) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int yes = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) fail("socket: %s", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS)
        fail("connect: %s", strerror(errno));
    connects++;
    c->reused = false;
    c->writing = true;
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, c->fd, &event);
}

static void hang_up(struct connection *c) {
    close(c->fd);
    c->fd = -1;
}

static void say(struct connection *c) {
    while (c->out_at < request_length) {
        ssize_t n = send(c->fd, request + c->out_at, request_length - c->out_at, MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == ENOTCONN)) {
            watch(c, true);
            return;
        }
        if (n < 0) fail("connection %u, request %u: sending: %s", c->index, c->asked, strerror(errno));
        c->out_at += (size_t)n;
    }
    watch(c, false);
}

static void ask(struct connection *c) {
    c->busy = true;
    c->asked++;
    begun++;
    c->out_at = c->used = c->body_used = 0;
    c->next = 0;
    c->done = false;
    begin_message(&c->in);
    c->asked_at = now();
    if (c->fd < 0) open_connection(c);
    else say(c);
}

static bool goes_on(const struct connection *c) {
    if (begun >= most) return false;
    return deadline > 0 ? now() < deadline : c->asked < each;
}

static void read_event(struct connection *c) {
    if (c->event[0] == ':') return; /* a comment: some gateways keep their callers company */
    if (c->used == sizeof LAST_EVENT - 1 && memcmp(c->event, LAST_EVENT, c->used) == 0) {
        if (c->next != plan.chunks) fail("connection %u: [DONE] after %u of %u events", c->index, c->next, plan.chunks);
        if (c->done) fail("connection %u: [DONE] twice", c->index);
        c->done = true;
        return;
    }
    char should_be[EVENT_MAX];
    const char *text = memmem(c->event, c->used, "\"sent\":", 7);
    uint64_t sent = text == NULL ? 0 : strtoull(text + 7, NULL, 10), came = now();
    size_t length = make_event(should_be, plan.event, c->next, c->next + 1 == plan.chunks, sent);
    if (c->used != length || memcmp(c->event, should_be, length) != 0)
        fail("connection %u: event %u is not what was sent: %.*s", c->index, c->next, (int)c->used, c->event);
    if (c->next == 0) {
        add(&first, (double)(came - c->asked_at));
        opened++;
    } else {
        add(&gaps, (double)(came - c->came) - (double)(sent - c->sent));
    }
    add(&delays, (double)(came - sent));
    c->came = came;
    c->sent = sent;
    c->next++;
    chunks++;
}

static void take_body(void *owner, const char *data, size_t length) {
    struct connection *c = owner;
    if (plan.chunks == 0) {
        if (c->body_used + length > expected_length) fail("connection %u: the answer is too long", c->index);
        memcpy(c->body + c->body_used, data, length);
        c->body_used += length;
        return;
    }
    for (size_t at = 0; at < length; at++) {
        if (c->used == EVENT_MAX - 1) fail("connection %u: an event without an end", c->index);
        c->event[c->used++] = data[at];
        if (data[at] == '\n' && c->used >= 2 && c->event[c->used - 2] == '\n') {
            read_event(c);
            c->used = 0;
            c->event[0] = '\0';
        }
    }
}

static void end_answer(struct connection *c) {
    if (strncmp(c->in.head + 8, " 200", 4) != 0)
        fail("connection %u, request %u: %.*s", c->index, c->asked, (int)strcspn(c->in.head, "\r"), c->in.head);
    if (plan.chunks > 0) {
        if (!c->done || c->used > 0) fail("connection %u: a stream without [DONE], %u events", c->index, c->next);
    } else if (c->body_used != expected_length || memcmp(c->body, expected, expected_length) != 0) {
        fail("connection %u: not the answer that was sent: %.*s", c->index,
             (int)(c->body_used < 300 ? c->body_used : 300), c->body);
    }
    answered++;
    c->busy = false;
    c->reused = true;
    if (c->in.closes) hang_up(c);
    if (goes_on(c)) ask(c);
}

static void hear(struct connection *c) {
    static char data[262144];
    ssize_t n = recv(c->fd, data, sizeof data, 0);
    if (n < 0 && errno == EAGAIN) return;
    heard_at = now();
    if (n <= 0) {
        if (c->busy)
            fail("connection %u, request %u%s: it was cut (%s) after %u events, %zu bytes of a head", c->index,
                 c->asked, c->reused ? ", reused" : "", n < 0 ? strerror(errno) : "closed", c->next, c->in.used);
        hang_up(c);
        return;
    }
    for (size_t at = 0; at < (size_t)n;) {
        if (!c->busy) fail("connection %u: %zu bytes that nobody asked for", c->index, (size_t)n - at);
        at += read_message(&c->in, data + at, (size_t)n - at, take_body, c);
        if (c->in.phase == BROKEN) fail("connection %u: broken framing after: %s", c->index, c->in.head);
        if (c->in.phase != COMPLETE) continue;
        if (strncmp(c->in.head + 8, " 100", 4) == 0) {
            begin_message(&c->in);
            continue;
        }
        size_t left = (size_t)n - at;
        end_answer(c);
        if (left > 0) fail("connection %u: %zu bytes after the end of an answer", c->index, left);
    }
}

/* --- All of them -------------------------------------------------------------------------------------------------- */

static void read_arguments(int count, char **arguments) {
    unsigned long long chunks_wanted = 0, per_write = plan.each, event = plan.event, answer = plan.answer;
    struct {
        const char *name;
        unsigned long long *value;
    } known[] = {{"--port", &port}, {"--connections", &connections}, {"--ramp", &ramp}, {"--each", &each},
                 {"--seconds", &seconds}, {"--most", &most}, {"--size", &size}, {"--chunks", &chunks_wanted},
                 {"--gap", &plan.gap}, {"--wait", &plan.wait}, {"--per-write", &per_write}, {"--event", &event},
                 {"--answer", &answer}, {"--form", &form}, {"--hold", &hold}};
    for (int at = 1; at + 1 < count; at += 2) {
        bool found = strcmp(arguments[at], "--key") == 0;
        if (found) key = arguments[at + 1];
        for (size_t which = 0; which < sizeof known / sizeof *known && !found; which++) {
            if (strcmp(arguments[at], known[which].name) != 0) continue;
            *known[which].value = strtoull(arguments[at + 1], NULL, 10);
            found = true;
        }
        if (!found) fail("no such option: %s", arguments[at]);
    }
    if (count % 2 == 0 || port == 0 || connections == 0) fail("--port and --connections are needed, each with a value");
    if (event > EVENT_MAX || answer > ANSWER_MAX) fail("too large an event or an answer");
    plan.chunks = (unsigned)chunks_wanted;
    plan.each = (unsigned)per_write;
    plan.event = (unsigned)event;
    plan.answer = (unsigned)answer;
}

int main(int count, char **arguments) {
    read_arguments(count, arguments);
    signal(SIGPIPE, SIG_IGN);
    allow_many_files();
    make_request();
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct connection *all = must(calloc(connections, sizeof *all));
    for (unsigned index = 0; index < connections; index++) {
        all[index].index = index;
        all[index].fd = -1;
        if (plan.chunks == 0) all[index].body = must(malloc(expected_length));
    }
    uint64_t began = now();
    heard_at = began;
    if (seconds > 0) deadline = began + seconds * 1000000ull;
    unsigned started = 0;
    bool told = false;
    for (;;) {
        while (started < connections && now() - began >= ramp * 1000000ull * started / connections) {
            if (begun < most) ask(&all[started]);
            started++;
        }
        if (started == connections && answered == begun) break;
        if (hold && opened == connections && !told) {
            printf("open\n");
            fflush(stdout);
            char byte;
            while (read(STDIN_FILENO, &byte, 1) > 0) continue;
            return 0;
        }
        struct epoll_event events[256];
        int ready = epoll_wait(poll_fd, events, 256, started < connections ? 1 : 1000);
        if (ready < 0 && errno != EINTR) fail("epoll: %s", strerror(errno));
        if (ready <= 0 && now() - heard_at > SILENCE)
            fail("%llu of %llu answers, and silence", answered, begun);
        for (int at = 0; at < ready; at++) {
            struct connection *c = events[at].data.ptr;
            if (events[at].events & EPOLLOUT) say(c);
            if (c->fd >= 0 && events[at].events & ~(unsigned)EPOLLOUT) hear(c);
        }
    }
    printf("{\"answers\": %llu, \"chunks\": %llu, \"bytes\": %llu, \"connects\": %llu, \"seconds\": %.6f", answered,
           chunks, answered * size, connects, (double)(now() - began) / 1e9);
    print_samples("first", &first);
    print_samples("gap", &gaps);
    print_samples("delay", &delays);
    printf("}\n");
    return 0;
}
