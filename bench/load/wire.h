/* What engine.c and load.c say to each other, so that the reader of an answer can rebuild it and compare every byte.
 *
 * A request carries a plan in its prompt ("bench chunks=90 gap=33333 ..."), because proxies pass on bodies and not
 * foreign headers. An answer carries the number of bytes that arrived and their sum; an event carries its number and
 * the time at which it was sent (CLOCK_MONOTONIC, nanoseconds: one machine, one clock).
 */
#ifndef WIRE_H
#define WIRE_H

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <time.h>

#define HEAD_MAX 16384
#define EVENT_MAX 4096
#define ANSWER_MAX (1 << 20)
#define PLAN_WITHIN 4096 /* a plan stands in the first bytes of a body */
#define LAST_EVENT "data: [DONE]\n\n"
#define PLAN "bench wait=%llu chunks=%u gap=%llu each=%u event=%u answer=%u drop=%u."
#define NUMBER " request=" /* of a stream's request, behind the plan, in eight digits: none may come twice */

struct plan {
    unsigned long long wait; /* microseconds until the answer begins */
    unsigned chunks;        /* events before [DONE]; 0: an answer in JSON */
    unsigned long long gap; /* microseconds between two writes; 0: all at once */
    unsigned each;          /* events in one write */
    unsigned event;         /* bytes of one event */
    unsigned answer;        /* bytes of an answer in JSON */
    unsigned drop;          /* 1: the connection is closed after a stream, although it was promised to be kept */
};

static void __attribute__((noreturn, format(printf, 1, 2))) fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

static inline void *must(void *memory) {
    if (memory == NULL) fail("no memory");
    return memory;
}

static inline uint64_t now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (uint64_t)at.tv_sec * 1000000000ull + (uint64_t)at.tv_nsec;
}

static inline uint64_t sum_of(const char *data, size_t length) {
    uint64_t sum = 0;
    for (size_t at = 0; at < length; at++) sum += (unsigned char)data[at];
    return sum;
}

static inline void allow_many_files(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* Text of exactly `size` bytes: head, padding, tail. Too small a size is a mistake of the caller. */
static inline size_t padded(char *to, size_t size, const char *head, const char *tail) {
    size_t front = strlen(head), back = strlen(tail);
    if (front + back > size) fail("%zu bytes are too few for: %s%s", size, head, tail);
    memcpy(to, head, front);
    memset(to + front, 'x', size - front - back);
    memcpy(to + size - back, tail, back);
    return size;
}

static inline size_t make_event(char *to, size_t size, unsigned number, bool last, uint64_t sent) {
    char head[256];
    snprintf(head, sizeof head,
             "data: {\"id\":\"bench\",\"object\":\"chat.completion.chunk\",\"created\":1795000000,\"model\":\"bench\","
             "\"choices\":[{\"index\":0,\"finish_reason\":%s,\"delta\":{\"content\":\"event %u, sent %llu ",
             last ? "\"stop\"" : "null", number, (unsigned long long)sent);
    return padded(to, size, head, "\"}}]}\n\n");
}

static inline size_t make_answer(char *to, size_t size, uint64_t bytes, uint64_t sum) {
    char head[256];
    snprintf(head, sizeof head,
             "{\"id\":\"bench\",\"object\":\"chat.completion\",\"created\":1795000000,\"model\":\"bench\",\"choices\":"
             "[{\"index\":0,\"finish_reason\":\"stop\",\"message\":{\"role\":\"assistant\",\"content\":\"%llu bytes, sum %llu ",
             (unsigned long long)bytes, (unsigned long long)sum);
    return padded(to, size, head, "\"}}],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3,\"total_tokens\":10}}");
}

/* --- One HTTP/1.1 message, read as it comes ----------------------------------------------------------------------- */

enum phase { HEAD, SIZED, CHUNK_SIZE, CHUNK_REST, CHUNK_DATA, CHUNK_END, TRAILER, COMPLETE, BROKEN };

struct message {
    enum phase phase;
    char head[HEAD_MAX + 1];
    size_t used;    /* of head */
    uint64_t left;  /* of the body or of the chunk */
    unsigned digits;
    bool closes;    /* "Connection: close" */
};

typedef void take(void *owner, const char *data, size_t length);

static inline void begin_message(struct message *in) {
    in->phase = HEAD;
    in->used = 0;
    in->closes = false;
}

/* The value of a header, up to its line's end; NULL where there is none. */
static inline const char *header_of(const struct message *in, const char *name) {
    size_t length = strlen(name);
    for (const char *line = strstr(in->head, "\r\n"); line != NULL && line[2] != '\r'; line = strstr(line + 2, "\r\n"))
        if (strncasecmp(line + 2, name, length) == 0 && line[2 + length] == ':')
            return line + 3 + length + strspn(line + 3 + length, " \t");
    return NULL;
}

static inline void end_head(struct message *in) {
    const char *value = header_of(in, "connection");
    in->closes = value != NULL && strncasecmp(value, "close", 5) == 0;
    if ((value = header_of(in, "transfer-encoding")) != NULL) {
        in->phase = strncasecmp(value, "chunked", 7) == 0 ? CHUNK_SIZE : BROKEN;
        in->left = in->digits = 0;
        return;
    }
    value = header_of(in, "content-length");
    in->left = value == NULL ? 0 : strtoull(value, NULL, 10);
    in->phase = in->left == 0 ? COMPLETE : SIZED;
    /* An answer that ends with its connection could be cut without anybody noticing: nobody here gives one. */
    if (value == NULL && strncmp(in->head, "HTTP/", 5) == 0) in->phase = BROKEN;
}

static inline int hex_digit(char byte) {
    if (byte >= '0' && byte <= '9') return byte - '0';
    byte |= 0x20;
    return byte >= 'a' && byte <= 'f' ? byte - 'a' + 10 : -1;
}

/* Reads on, gives the body to `taker`, and returns how much was used: all of it, or up to the end of the message. */
static inline size_t read_message(struct message *in, const char *data, size_t length, take *taker, void *owner) {
    size_t at = 0;
    while (at < length && in->phase != COMPLETE && in->phase != BROKEN) {
        char byte = data[at];
        switch (in->phase) {
        case HEAD:
            at++;
            if (in->used == HEAD_MAX) {
                in->phase = BROKEN;
                break;
            }
            in->head[in->used++] = byte;
            if (byte == '\n' && in->used >= 4 && memcmp(in->head + in->used - 4, "\r\n\r\n", 4) == 0) {
                in->head[in->used] = '\0';
                end_head(in);
            }
            break;
        case CHUNK_SIZE:
            at++;
            if (hex_digit(byte) >= 0 && in->digits < 15) {
                in->left = in->left * 16 + (unsigned)hex_digit(byte);
                in->digits++;
            } else if (in->digits > 0 && byte == '\n') {
                in->phase = in->left > 0 ? CHUNK_DATA : TRAILER;
                in->digits = 0;
            } else if (in->digits > 0 && (byte == '\r' || byte == ';')) {
                in->phase = CHUNK_REST;
            } else {
                in->phase = BROKEN;
            }
            break;
        case CHUNK_REST:
            at++;
            if (byte == '\n') {
                in->phase = in->left > 0 ? CHUNK_DATA : TRAILER;
                in->digits = 0;
            }
            break;
        case SIZED:
        case CHUNK_DATA: {
            size_t here = length - at < in->left ? length - at : (size_t)in->left;
            taker(owner, data + at, here);
            at += here;
            in->left -= here;
            if (in->left == 0) in->phase = in->phase == SIZED ? COMPLETE : CHUNK_END;
            break;
        }
        case CHUNK_END:
            at++;
            if (byte == '\n') in->phase = CHUNK_SIZE;
            else if (byte != '\r') in->phase = BROKEN;
            break;
        case TRAILER: /* `digits` counts the bytes of the line */
            at++;
            if (byte == '\n') {
                if (in->digits == 0) in->phase = COMPLETE;
                in->digits = 0;
            } else if (byte != '\r') {
                in->digits++;
            }
            break;
        default: break;
        }
    }
    return at;
}

#endif
