/* A load generator that checks every byte: one epoll loop.
 *
 *     load --port N [--key KEY] [--connections N] [--ramp MS] [--each N] [--seconds MS] [--most N] [--size BYTES]
 *          [--wait US] [--chunks N] [--gap US] [--per-write N] [--event BYTES] [--answer BYTES] [--form 1]
 *          [--hold 1] [--leave N] [--drop 1] [--lossy 1] [--loose N]
 *          [--number N] [--tell 1]
 *
 * The engine waits 2 ms before it answers, as every engine does. At once would be unfair to Go's ReverseProxy, and to
 * Caddy: they cut an answer that begins before they have noticed the end of their own request (Caddy 2.6.2).
 * Connections open evenly over the ramp. Each asks `each` times, or, with `seconds`, again and again until the time is
 * over or `most` requests were begun. Prints one line of JSON, seconds as unit. Exits with 1 and one line when anything
 * is lost, doubled, changed, cut or silent. With --hold each stream is kept after its first event: "open" is printed,
 * and it ends when its standard input ends.
 *
 * With --leave each caller hangs up after so many events. With --drop the engine closes each connection after a stream,
 * unannounced. With --lossy what is wrong is counted ("lost") instead of being the end of it. There are proxies that
 * write every request anew: with --loose 1 the number of its bytes and their sum may be others than were sent. Others
 * do so with every answer, too: with --loose 2 only what the model said must be right. Requests for streams are numbered
 * from --number on. With --tell two lines come before: "open N" when every stream has begun, and "ends N" when the first
 * has ended, with the number of chunks until then.
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
    unsigned index, asked, number; /* number: of the request, among all */
    bool busy, writing, reused;
    size_t out_at;
    struct message in;
    char event[EVENT_MAX];
    size_t used;        /* of event */
    unsigned next;      /* the number of the next event */
    bool done;          /* [DONE] was read */
    bool wrong;         /* this answer is lost */
    bool leaves;        /* has heard enough */
    char *body;         /* of an answer in JSON */
    size_t body_used;
    uint64_t asked_at, came, sent; /* came and sent: of the event before */
};

static struct plan plan = {.wait = 2000, .gap = 33333, .each = 1, .event = 222, .answer = 1024};
static unsigned long long port, connections = 1, ramp, each = 1, seconds, most = 1000000000, size = 1024, form, hold;
static unsigned long long leave, lossy, loose, first_number, tell;
static const char *key = "";
static char *request, *expected, *number; /* number: where a stream's request has its own */
static size_t request_length, expected_length, body_room;
static int poll_fd;
static unsigned long long begun, answered, left, lost, chunks, connects;
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

/* The answer on this connection is lost, which is the end of it all unless we are to count such. */
static void __attribute__((format(printf, 2, 3))) wrong(struct connection *c, const char *format, ...) {
    c->wrong = true;
    if (lossy) return;
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "connection %u, request %u%s: ", c->index, c->asked, c->reused ? ", reused" : "");
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

/* --- The request -------------------------------------------------------------------------------------------------- */

static void make_request(void) {
    char text[512], head[1024], front[1024];
    char *body = must(malloc(size));
    int written = snprintf(text, sizeof text, PLAN, plan.wait, plan.chunks, plan.gap, plan.each, plan.event,
                           plan.answer, plan.drop);
    if (plan.chunks > 0) snprintf(text + written, sizeof text - (size_t)written, NUMBER "00000000");
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
    if (plan.chunks > 0) number = (char *)memmem(request, request_length, NUMBER, sizeof NUMBER - 1) + sizeof NUMBER - 1;
    if (plan.chunks == 0) {
        expected = must(malloc(plan.answer));
        expected_length = make_answer(expected, plan.answer, size, sum_of(body, size));
        body_room = loose ? 2 * expected_length + 65536 : expected_length;
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
    if (number != NULL) { /* all send the same bytes, but for this */
        char digits[16];
        if (c->out_at > 0) fail("connection %u: a request that is sent in pieces cannot be numbered", c->index);
        snprintf(digits, sizeof digits, "%08u", c->number);
        memcpy(number, digits, 8);
    }
    while (c->out_at < request_length) {
        ssize_t n = send(c->fd, request + c->out_at, request_length - c->out_at, MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == ENOTCONN)) {
            watch(c, true);
            return;
        }
        if (n < 0) {
            wrong(c, "sending: %s", strerror(errno));
            return; /* its end will be heard, too */
        }
        c->out_at += (size_t)n;
    }
    watch(c, false);
}

static void ask(struct connection *c) {
    c->busy = true;
    c->asked++;
    c->number = (unsigned)(first_number + begun++) % 100000000;
    c->out_at = c->used = c->body_used = 0;
    c->next = 0;
    c->done = c->wrong = c->leaves = false;
    begin_message(&c->in);
    c->asked_at = now();
    if (c->fd < 0) open_connection(c);
    else say(c);
}

static bool goes_on(const struct connection *c) {
    if (begun >= most) return false;
    return deadline > 0 ? now() < deadline : c->asked < each;
}

/* What the model says in this: from the quote behind "content": to the next; NULL where it says nothing. */
static const char *said_in(const char *text, size_t length, size_t *said) {
    static const char key[] = "\"content\":";
    const char *at = memmem(text, length, key, sizeof key - 1), *end = text + length;
    if (at == NULL) return NULL;
    for (at += sizeof key - 1; at < end && *at == ' ';) at++;
    if (at == end || *at++ != '"') return NULL;
    const char *close = memchr(at, '"', (size_t)(end - at));
    *said = close == NULL ? 0 : (size_t)(close - at);
    return *said > 0 ? at : NULL;
}

static bool says_the_same(const char *text, size_t length, const char *other, size_t other_length) {
    size_t said = 0, other_said = 0;
    const char *ours = said_in(text, length, &said), *theirs = said_in(other, other_length, &other_said);
    return ours != NULL && theirs != NULL && said == other_said && memcmp(ours, theirs, said) == 0;
}

static bool first_ended;

static void say_when(const char *what) {
    printf("%s %llu\n", what, chunks);
    fflush(stdout);
}

static void read_event(struct connection *c) {
    if (c->wrong || c->leaves || c->event[0] == ':') return; /* a comment: some gateways keep their callers company */
    if (c->used == sizeof LAST_EVENT - 1 && memcmp(c->event, LAST_EVENT, c->used) == 0) {
        if (c->next != plan.chunks) wrong(c, "[DONE] after %u of %u events", c->next, plan.chunks);
        if (c->done) wrong(c, "[DONE] twice");
        c->done = true;
        if (!first_ended && tell) say_when("ends");
        first_ended = true; /* `answered` counts it later: the end of its last chunk may come in another read */
        return;
    }
    char should_be[EVENT_MAX];
    size_t said;
    const char *text = memmem(c->event, c->used, ", sent ", 7);
    if (loose > 1 && said_in(c->event, c->used, &said) == NULL) return;
    uint64_t sent = text == NULL ? 0 : strtoull(text + 7, NULL, 10), came = now();
    size_t length = make_event(should_be, plan.event, c->next, c->next + 1 == plan.chunks, sent);
    if (loose > 1 ? !says_the_same(c->event, c->used, should_be, length)
                  : c->used != length || memcmp(c->event, should_be, length) != 0) {
        wrong(c, "event %u is not what was sent: %.*s", c->next, (int)c->used, c->event);
        return;
    }
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
    if (leave > 0 && c->next == leave) c->leaves = true;
}

static void take_body(void *owner, const char *data, size_t length) {
    struct connection *c = owner;
    if (plan.chunks == 0) {
        if (c->body_used + length > body_room) {
            wrong(c, "the answer is too long");
            return;
        }
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

/* The same but for how many bytes came, and their sum: it wrote the request anew, too. */
static bool says_as_much(const char *body, size_t length) {
    size_t said = 0, should = 0;
    const char *text = said_in(body, length, &said);
    said_in(expected, expected_length, &should);
    size_t words = text == NULL ? 0 : strcspn(text, "x");
    return text != NULL && said == should && strspn(text + words, "x") == said - words;
}

static void end_answer(struct connection *c) {
    if (strncmp(c->in.head + 8, " 200", 4) != 0)
        wrong(c, "%.*s", (int)strcspn(c->in.head, "\r"), c->in.head);
    else if (plan.chunks > 0 && (!c->done || c->used > 0))
        wrong(c, "a stream without [DONE], %u events", c->next);
    else if (plan.chunks == 0 && (loose ? !says_as_much(c->body, c->body_used)
                                        : c->body_used != expected_length || memcmp(c->body, expected, expected_length)))
        wrong(c, "not the answer that was sent: %.*s", (int)(c->body_used < 300 ? c->body_used : 300), c->body);
    if (c->wrong) return;
    answered++;
    c->busy = false;
    c->reused = true;
    if (c->in.closes) hang_up(c);
    if (goes_on(c)) ask(c);
}

/* No more of this answer: it is lost, or its caller leaves. */
static void turn_away(struct connection *c) {
    if (c->wrong) lost++;
    else left++;
    c->busy = false;
    hang_up(c);
    if (goes_on(c)) ask(c);
}

static void hear(struct connection *c) {
    static char data[262144];
    ssize_t n = recv(c->fd, data, sizeof data, 0);
    if (n < 0 && errno == EAGAIN) return;
    heard_at = now();
    if (n <= 0) {
        if (c->busy) {
            wrong(c, "it was cut (%s) after %u events, %zu bytes of a head", n < 0 ? strerror(errno) : "closed",
                  c->next, c->in.used);
            turn_away(c);
        } else {
            hang_up(c);
        }
        return;
    }
    for (size_t at = 0; at < (size_t)n;) {
        if (!c->busy) fail("connection %u: %zu bytes that nobody asked for", c->index, (size_t)n - at);
        at += read_message(&c->in, data + at, (size_t)n - at, take_body, c);
        if (c->in.phase == BROKEN) wrong(c, "broken framing after: %s", c->in.head);
        if (c->wrong || c->leaves) {
            turn_away(c);
            return;
        }
        if (c->in.phase != COMPLETE) continue;
        if (strncmp(c->in.head + 8, " 100", 4) == 0) {
            begin_message(&c->in);
            continue;
        }
        size_t rest = (size_t)n - at;
        end_answer(c);
        if (rest > 0) fail("connection %u: %zu bytes after the end of an answer", c->index, rest);
        if (c->wrong) turn_away(c);
        return;
    }
}

/* --- All of them -------------------------------------------------------------------------------------------------- */

static void read_arguments(int count, char **arguments) {
    unsigned long long chunks_wanted = 0, per_write = plan.each, event = plan.event, answer = plan.answer,
                       drop = 0;
    struct {
        const char *name;
        unsigned long long *value;
    } known[] = {{"--port", &port}, {"--connections", &connections}, {"--ramp", &ramp}, {"--each", &each},
                 {"--seconds", &seconds}, {"--most", &most}, {"--size", &size}, {"--chunks", &chunks_wanted},
                 {"--gap", &plan.gap}, {"--wait", &plan.wait}, {"--per-write", &per_write}, {"--event", &event},
                 {"--answer", &answer}, {"--form", &form}, {"--hold", &hold},
                 {"--leave", &leave}, {"--drop", &drop}, {"--lossy", &lossy}, {"--loose", &loose},
                 {"--number", &first_number}, {"--tell", &tell}};
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
    plan.drop = drop > 0;
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
        if (plan.chunks == 0) all[index].body = must(malloc(body_room));
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
        if (started == connections && answered + left + lost == begun) break;
        if (tell && opened == connections && !told) {
            say_when("open");
            told = true;
        }
        if (hold && opened == connections) {
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
    printf("{\"answers\": %llu, \"left\": %llu, \"lost\": %llu, \"chunks\": %llu, \"bytes\": %llu, \"connects\": %llu, \"seconds\": %.6f", answered, left,
           lost, chunks, answered * size, connects, (double)(now() - began) / 1e9);
    print_samples("first", &first);
    print_samples("gap", &gaps);
    print_samples("delay", &delays);
    printf("}\n");
    return 0;
}
