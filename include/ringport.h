/*
 * ringport: entangled message ports over shared memory, for Linux on 64-bit little-endian processors.
 *
 * A channel is two entangled ports. What is posted on one arrives on the other, in another thread or in another process; a
 * port can itself be sent in a message, to any process, and keeps working there. The messages travel through two rings in
 * shared memory. Nothing has a name, nothing is left behind: when the last holder is gone, by any death, the kernel frees
 * all of it.
 *
 * THE LIFE OF A PORT. It is made with its peer (ringport_channel_new), comes with a process (ringport_spawn there,
 * ringport_parent_port here), from a listener (ringport_connect, ringport_accept), or out of a message
 * (ringport_message_take_port). It posts (ringport_post) and receives (ringport_recv), waiting, or in an event loop: this
 * library's or your own. It may move on: in a message (ringport_post_with_ports), as two descriptors
 * (ringport_port_into_fds), over a socket (ringport_port_send). It ends with ringport_port_free, and so does the channel; a
 * peer whose process dies is noticed at once. Then everything that was posted before is still received, and after that
 * every call says RINGPORT_CLOSED.
 *
 *     ringport_port *here, *there;
 *     ringport_message *message;
 *     if (ringport_channel_new(NULL, &here, &there) != RINGPORT_OK) return fail(ringport_last_error());
 *     ringport_post(here, "ping", 4, RINGPORT_FOREVER);
 *     ringport_recv(there, RINGPORT_FOREVER, &message);
 *     printf("%.*s\n", (int)ringport_message_len(message), (const char *)ringport_message_data(message));
 *     ringport_message_free(message);
 *     ringport_port_free(here);
 *     ringport_port_free(there);
 *
 * STATUS. Calls answer a ringport_status: RINGPORT_OK is 0, everything else is negative. A call that fails has done nothing,
 * has written no output, and leaves the caller with what it passed; ringport_last_error says what was wrong. A pointer that
 * must not be NULL, and is, gives RINGPORT_NULL.
 *
 * OWNERSHIP. Each handle that a call gives is freed once, by the _free function of its type. Bytes that are passed in are
 * copied during the call. After a port has moved, its handle is dead: every call on it answers RINGPORT_DETACHED (or what
 * is wrong with the call's other arguments), and it is still to be freed.
 *
 * THREADS. A port and its messages are used by one thread at a time, and can be handed to another; a loop with everything that
 * is in it (ports, listeners, children) by one thread as a whole. What is in no loop, or has left it, may be used by different
 * threads, each by one. Only ringport_waker_wake is for any thread. In a forked child that has not called exec, calls on the
 * parent's handles that would post, receive, wait or run answer RINGPORT_FORKED, the others do nothing to the parent, and
 * freeing the handles harms nobody.
 *
 * TRUST. Whatever another process writes into shared memory, or sends, ends at worst that one channel (RINGPORT_CORRUPT).
 *
 * This file is generated from the comments in `ffi/src`; do not edit it.
 */


#ifndef RINGPORT_H
#define RINGPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>


/**
 * The version of the interface that this header describes.
 */
#define RINGPORT_VERSION_MAJOR 0

/**
 * Raised with each change that programs have to follow, as long as the major version is 0.
 */
#define RINGPORT_VERSION_MINOR 1

/**
 * Raised with each other change.
 */
#define RINGPORT_VERSION_PATCH 0

/**
 * A timeout: as long as it takes. Any negative number is.
 */
#define RINGPORT_FOREVER (-1)

/**
 * A timeout: try once and do not wait.
 */
#define RINGPORT_NO_WAIT 0

/**
 * Ports that travel in one message at most: the kernel passes 253 descriptors at once, and a port is two.
 */
#define RINGPORT_MAX_PORTS 126

/**
 * What a call answers. The numbers are never reused.
 *
 * Each function's comment says which of these it answers beside RINGPORT_OK, and when. RINGPORT_NULL,
 * RINGPORT_FORKED, RINGPORT_DETACHED and RINGPORT_PANIC are not repeated there.
 */
enum ringport_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * It is done.
     */
    RINGPORT_OK = 0,
    /**
     * What was asked for is not there yet, or did not come in time. No error: ringport_last_error stays as it was.
     */
    RINGPORT_NOT_YET = -1,
    /**
     * A pointer is NULL that must not be.
     */
    RINGPORT_NULL = -2,
    /**
     * A value cannot be, or a call does not come in its order (a commit without a reservation).
     */
    RINGPORT_INVALID = -3,
    /**
     * The member `size` of a struct is not the size of that struct.
     */
    RINGPORT_BAD_SIZE = -4,
    /**
     * The port has moved away from this handle: it was sent, or taken apart into its descriptors. Or the listener ended with
     * its loop, or the process's end was told by one.
     */
    RINGPORT_DETACHED = -5,
    /**
     * The channel has ended. ringport_port_close_reason says why.
     */
    RINGPORT_CLOSED = -6,
    /**
     * There is no room for the message, or was none in time.
     */
    RINGPORT_FULL = -7,
    /**
     * 64 messages with ports wait to be received, and no more can be sent now.
     */
    RINGPORT_TRANSFERS_FULL = -8,
    /**
     * The message is longer than ringport_port_max_message_len, or than what was reserved.
     */
    RINGPORT_TOO_LARGE = -9,
    /**
     * Something is under way that must end first: a reservation, a batch, messages shown in place; or the port is in a
     * loop, or the loop runs.
     */
    RINGPORT_BUSY = -10,
    /**
     * A port cannot be sent through itself.
     */
    RINGPORT_SELF_TRANSFER = -11,
    /**
     * A port is listed twice.
     */
    RINGPORT_DUPLICATE_PORT = -12,
    /**
     * One of the ports to be sent was closed here.
     */
    RINGPORT_CLOSED_PORT = -13,
    /**
     * A port cannot be sent through its own peer: nobody could ever receive it.
     */
    RINGPORT_OWN_PEER = -14,
    /**
     * More than RINGPORT_MAX_PORTS.
     */
    RINGPORT_TOO_MANY_PORTS = -15,
    /**
     * The kernel has too many descriptors of this user under way (see RLIMIT_NOFILE).
     */
    RINGPORT_TOO_MANY_IN_FLIGHT = -16,
    /**
     * An alignment that cannot be had.
     */
    RINGPORT_ALIGNMENT = -17,
    /**
     * This process was forked from the one that the port or loop belongs to, and has not called exec.
     */
    RINGPORT_FORKED = -18,
    /**
     * A system call failed. ringport_last_errno says how. Nothing was lost; with descriptors, memory or maps short it may
     * go well another time.
     */
    RINGPORT_SYSTEM = -19,
    /**
     * There is not enough memory.
     */
    RINGPORT_NO_MEMORY = -20,
    /**
     * A capacity that cannot be, or that the listener does not allow.
     */
    RINGPORT_CAPACITY = -21,
    /**
     * The memory cannot be locked (see RLIMIT_MEMLOCK).
     */
    RINGPORT_MEMORY_LOCK = -22,
    /**
     * Descriptors that are no port, or a socket on which something else comes next.
     */
    RINGPORT_NOT_A_PORT = -23,
    /**
     * Nobody has started this process with a port, or it was asked for before.
     */
    RINGPORT_NO_PARENT = -24,
    /**
     * The program cannot be started.
     */
    RINGPORT_SPAWN = -25,
    /**
     * A name or path at which nobody can listen.
     */
    RINGPORT_ADDRESS = -26,
    /**
     * Somebody listens there already.
     */
    RINGPORT_IN_USE = -27,
    /**
     * Nobody listens there.
     */
    RINGPORT_NOBODY_LISTENS = -28,
    /**
     * The listener does not allow this user, or is another user's.
     */
    RINGPORT_NOT_ALLOWED = -29,
    /**
     * The listener hung up.
     */
    RINGPORT_REFUSED = -30,
    /**
     * The listener speaks another version of the protocol.
     */
    RINGPORT_VERSION_MISMATCH = -31,
    /**
     * The listener did not answer in time.
     */
    RINGPORT_TIMED_OUT = -32,
    /**
     * The bytes are no such archive.
     */
    RINGPORT_BAD_ARCHIVE = -33,
    /**
     * It is not in the loop, or in none.
     */
    RINGPORT_NOT_IN_LOOP = -34,
    /**
     * A defect of this library, please report it. The call may have been done in part.
     */
    RINGPORT_PANIC = -35,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum ringport_status ringport_status;
#else
typedef int32_t ringport_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Why a channel has ended.
 */
enum ringport_close_reason
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * It has not, as far as can be known now.
     */
    RINGPORT_OPEN = 0,
    /**
     * This port was closed by its holder.
     */
    RINGPORT_CLOSED_HERE = 1,
    /**
     * The peer was closed, or freed, in good order.
     */
    RINGPORT_CLOSED_BY_PEER = 2,
    /**
     * The peer is gone without having closed: its process died, or nobody ever received it.
     */
    RINGPORT_PEER_GONE = 3,
    /**
     * The peer wrote what no ringport writes. The channel was ended here, to be safe.
     */
    RINGPORT_CORRUPT = 4,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum ringport_close_reason ringport_close_reason;
#else
typedef int32_t ringport_close_reason;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * How a port, or a loop, waits.
 */
enum ringport_wait_strategy
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * Spins a bounded while, learning from how long waits took, then sleeps. The default.
     */
    RINGPORT_WAIT_ADAPTIVE = 0,
    /**
     * Never sleeps: for those who own their CPU.
     */
    RINGPORT_WAIT_SPIN = 1,
    /**
     * Sleeps at once.
     */
    RINGPORT_WAIT_BLOCK = 2,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum ringport_wait_strategy ringport_wait_strategy;
#else
typedef int32_t ringport_wait_strategy;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * What ringport_port_arm is to wait for.
 */
enum ringport_interest
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * A message has come.
     */
    RINGPORT_MESSAGE = 1,
    /**
     * There is room for a message of `len` bytes. To be told, a quarter of the ring must be free as well.
     */
    RINGPORT_ROOM = 2,
    /**
     * Either of the two.
     */
    RINGPORT_MESSAGE_OR_ROOM = 3,
    /**
     * A message of `len` bytes can be posted with ports: there is room for it, and fewer than 64 of its kind wait.
     */
    RINGPORT_TRANSFER = 4,
    /**
     * A message has come, or one can be posted with ports.
     */
    RINGPORT_MESSAGE_OR_TRANSFER = 5,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum ringport_interest ringport_interest;
#else
typedef int32_t ringport_interest;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * How the processes of this library order a post against a sleep.
 */
enum ringport_barrier
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
    /**
     * The sleeper pays, by membarrier(2), where the kernel allows it; otherwise as RINGPORT_BARRIER_FENCE.
     */
    RINGPORT_BARRIER_AUTO = 0,
    /**
     * This process pays with a fence a post, and is never interrupted for others: for machines with isolated CPUs.
     */
    RINGPORT_BARRIER_FENCE = 1,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum ringport_barrier ringport_barrier;
#else
typedef int32_t ringport_barrier;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * A process started by ringport_spawn.
 */
typedef struct ringport_child ringport_child;

/**
 * A place where other processes can find this one.
 */
typedef struct ringport_listener ringport_listener;

/**
 * Ports, listeners, processes and timers, and callbacks for what happens to them, all on one thread.
 */
typedef struct ringport_loop ringport_loop;

/**
 * A message that has arrived.
 */
typedef struct ringport_message ringport_message;

/**
 * One end of a channel.
 */
typedef struct ringport_port ringport_port;

/**
 * What wakes a loop, from any thread.
 */
typedef struct ringport_waker ringport_waker;

/**
 * What a new channel should be like. Begin with RINGPORT_CHANNEL_OPTIONS_INIT.
 */
typedef struct {
    /**
     * The size of this struct.
     */
    size_t size;
    /**
     * Bytes of the ring in which the first port posts: a power of two from 4 KiB to 1 GiB; 0 is 64 KiB. A message can
     * be as long as half of it less 24 bytes.
     */
    size_t capacity_1_to_2;
    /**
     * The same for the second port.
     */
    size_t capacity_2_to_1;
    /**
     * Whether to commit all of the memory at once, so that none can be missing later.
     */
    bool prefault;
    /**
     * Whether to lock the memory, so that it is never swapped out. It holds for this process.
     */
    bool lock_memory;
} ringport_channel_options;

/**
 * What went through a port since this process has it. Begin with RINGPORT_STATS_INIT.
 */
typedef struct {
    /**
     * The size of this struct, set before the call.
     */
    size_t size;
    /**
     * Messages posted.
     */
    uint64_t messages_posted;
    /**
     * Bytes of messages posted.
     */
    uint64_t bytes_posted;
    /**
     * Messages received.
     */
    uint64_t messages_received;
    /**
     * Bytes of messages received.
     */
    uint64_t bytes_received;
    /**
     * Times this side went to sleep in the kernel.
     */
    uint64_t sleeps;
    /**
     * Times this side woke the peer.
     */
    uint64_t wakeups;
    /**
     * Posts that had to wait for room.
     */
    uint64_t room_waits;
    /**
     * Ports that went away in messages posted.
     */
    uint64_t ports_posted;
    /**
     * Ports that came in messages received.
     */
    uint64_t ports_received;
} ringport_stats;

/**
 * How to start a process. Begin with RINGPORT_SPAWN_OPTIONS_INIT.
 */
typedef struct {
    /**
     * The size of this struct.
     */
    size_t size;
    /**
     * Its environment: strings `NAME=value`, and NULL after the last. NULL: this process's.
     */
    const char *const *environment;
    /**
     * Its directory. NULL: this process's.
     */
    const char *directory;
    /**
     * Descriptors of its standard input, output and error, each -1 for this process's. They stay the caller's. NULL: all three
     * are this process's.
     */
    const int *standard_streams;
} ringport_spawn_options;

/**
 * Who may connect, and with what. Begin with RINGPORT_LISTENER_OPTIONS_INIT.
 */
typedef struct {
    /**
     * The size of this struct.
     */
    size_t size;
    /**
     * Ids of other users that are allowed, `user_count` of them. This process's user is in any case.
     */
    const uint32_t *users;
    /**
     * How many.
     */
    size_t user_count;
    /**
     * Whether every user is allowed who can get at the socket's path.
     */
    bool any_user;
    /**
     * The largest capacity of a client's rings, in bytes each. 0: 64 MiB.
     */
    size_t largest_capacity;
    /**
     * How many connections the kernel keeps waiting until they are accepted. 0: 128.
     */
    uint16_t backlog;
} ringport_listener_options;

/**
 * Who has connected, by the kernel's word: as it was when it connected.
 */
typedef struct {
    /**
     * The process's id.
     */
    uint32_t process_id;
    /**
     * The id of its effective user.
     */
    uint32_t user_id;
    /**
     * The id of its effective group.
     */
    uint32_t group_id;
} ringport_credentials;

/**
 * How to connect. Begin with RINGPORT_CONNECT_OPTIONS_INIT.
 */
typedef struct {
    /**
     * The size of this struct.
     */
    size_t size;
    /**
     * What the channel should be like; the connecting side is its first port.
     */
    ringport_channel_options channel;
    /**
     * How long to wait until the listener has accepted, in nanoseconds; RINGPORT_FOREVER. The macro's are ten seconds.
     */
    int64_t timeout_ns;
} ringport_connect_options;

/**
 * A message has come. It is the callback's, which frees it.
 */
typedef void (*ringport_on_message)(ringport_loop *events,
                                    ringport_port *port,
                                    ringport_message *message,
                                    void *user);

/**
 * Frees the `user` of a callback that is not needed any more.
 */
typedef void (*ringport_free_user)(void *user);

/**
 * A message cannot be received now, with a ringport_status.
 */
typedef void (*ringport_on_message_error)(ringport_loop *events,
                                          ringport_port *port,
                                          int32_t status,
                                          void *user);

/**
 * The channel has ended, with a ringport_close_reason.
 */
typedef void (*ringport_on_close)(ringport_loop *events, ringport_port *port, int32_t reason, void *user);

/**
 * There is room.
 */
typedef void (*ringport_on_room)(ringport_loop *events, ringport_port *port, void *user);

/**
 * A timer is due, or the loop was woken.
 */
typedef void (*ringport_on_event)(ringport_loop *events, void *user);

/**
 * A client has come: with RINGPORT_OK the port to it, which is the callback's to free, and who it is, which is there during the
 * call; else both are NULL and ringport_last_error says what was lacking.
 */
typedef void (*ringport_on_connect)(ringport_loop *events,
                                    int32_t status,
                                    ringport_port *port,
                                    const ringport_credentials *client,
                                    void *user);

/**
 * A process has ended: with RINGPORT_OK its status as waitpid(2) gives it.
 */
typedef void (*ringport_on_exit)(ringport_loop *events, int32_t status, int wait_status, void *user);

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The version of the library that is loaded: `major << 16 | minor << 8 | patch`. As long as the major version is 0, the
 * minor one has to be that of the header.
 */
uint32_t ringport_version(void);

/**
 * The name of a status, such as "RINGPORT_FULL". Never NULL.
 */
const char *ringport_status_name(int32_t status);

/**
 * What was wrong when a call on this thread last failed, or a callback was told of a failure: which value, and what would be
 * right. Never NULL; empty if nothing has failed. Valid until the next failure on this thread, so also not across a call among
 * the arguments of the same `printf`.
 */
const char *ringport_last_error(void);

/**
 * The `errno` of the system call because of which a call on this thread last failed; 0 if that had another cause.
 */
int ringport_last_errno(void);

/* ---- Channels and ports ---------------------------------------------------------------------------------- */

/**
 * Makes a channel: two entangled ports. What is posted on one arrives on the other. It takes four descriptors and some
 * 5 KiB. The caller frees both.
 *
 * `options` may be NULL: 64 KiB each way. Answers RINGPORT_BAD_SIZE, RINGPORT_CAPACITY, RINGPORT_NO_MEMORY,
 * RINGPORT_MEMORY_LOCK, or RINGPORT_SYSTEM when the process is out of descriptors.
 */
ringport_status ringport_channel_new(const ringport_channel_options *options,
                                     ringport_port **port1,
                                     ringport_port **port2);

/**
 * Frees a port's handle, and closes the port if it is still behind it. That works anywhere: also in a loop, out of which
 * it is taken, and in the port's own callbacks. Messages that came from the port stay valid. NULL is nothing.
 */
void ringport_port_free(ringport_port *port);

/**
 * Ends the channel for both ends. The peer still receives what was posted before; what this side has not received yet is
 * discarded, and ports in it are closed. Closing twice does nothing more. The handle is still to be freed.
 */
ringport_status ringport_port_close(ringport_port *port);

/**
 * Says why the channel has ended, or RINGPORT_OPEN. Messages may still wait to be received.
 */
ringport_status ringport_port_close_reason(const ringport_port *port, ringport_close_reason *reason);

/**
 * Bytes of the ring in which the port posts. 0 if there is no port behind the handle.
 */
size_t ringport_port_capacity(const ringport_port *port);

/**
 * The longest message that can be posted, in bytes: half the capacity less 24. Ports that go with it (16 bytes and up, with
 * their number) and an alignment beyond 16 take some of that: ringport_last_error then names what is left. 0 if there is no
 * port behind the handle.
 */
size_t ringport_port_max_message_len(const ringport_port *port);

/**
 * Bytes that wait to be received, headers and padding included; 0 if nothing does. While the peer posts it may lag behind.
 */
size_t ringport_port_pending(const ringport_port *port);

/* ---- Posting --------------------------------------------------------------------------------------------- */

/**
 * Posts a message of `len` bytes, waiting for room at most `timeout_ns` nanoseconds (RINGPORT_NO_WAIT, RINGPORT_FOREVER).
 * They are copied at once. When this has returned RINGPORT_OK the message will arrive, whatever becomes of this process.
 * `data` may be NULL if `len` is 0: an empty message is a message.
 *
 * Answers RINGPORT_FULL, RINGPORT_TOO_LARGE, RINGPORT_CLOSED, RINGPORT_BUSY while a reservation or batch is open, or
 * RINGPORT_SYSTEM if it cannot wait. Nothing was sent then.
 */
ringport_status ringport_post(ringport_port *port,
                              const void *data,
                              size_t len,
                              int64_t timeout_ns);

/**
 * Posts a message together with `port_count` ports, which move to whoever receives it, with all that waits on them; their
 * peers notice nothing. At most RINGPORT_MAX_PORTS.
 *
 * On success their handles are dead: every call on them answers RINGPORT_DETACHED, and they are still to be freed. On
 * failure nothing was sent and nothing has moved. It is looked for in this order, each in the whole list:
 * RINGPORT_SELF_TRANSFER, RINGPORT_DUPLICATE_PORT, RINGPORT_DETACHED, RINGPORT_CLOSED_PORT, RINGPORT_OWN_PEER, RINGPORT_BUSY
 * (a port of the list is in a loop, or has a reservation or messages in place), RINGPORT_TOO_MANY_PORTS; what ringport_post
 * answers; RINGPORT_TRANSFERS_FULL, RINGPORT_TOO_MANY_IN_FLIGHT.
 */
ringport_status ringport_post_with_ports(ringport_port *port,
                                         const void *data,
                                         size_t len,
                                         ringport_port *const *ports,
                                         size_t port_count,
                                         int64_t timeout_ns);

/**
 * Reserves a message of `len` bytes, to be written where it will be read, waiting for room as ringport_post does. `*data`
 * is aligned to 16; only write there, what is read the peer may have changed. What is not written keeps the bytes that
 * were there. Valid until ringport_commit or ringport_abort; meanwhile posting here is RINGPORT_BUSY, receiving is not.
 *
 * Answers RINGPORT_FULL, RINGPORT_TOO_LARGE, RINGPORT_CLOSED, RINGPORT_BUSY, RINGPORT_SYSTEM.
 */
ringport_status ringport_reserve(ringport_port *port,
                                 size_t len,
                                 int64_t timeout_ns,
                                 void **data);

/**
 * The same for bytes aligned to `align`, here and where they are received: a power of two up to 128. Waits as long as it
 * takes. Also answers RINGPORT_ALIGNMENT.
 */
ringport_status ringport_reserve_aligned(ringport_port *port,
                                         size_t len,
                                         size_t align,
                                         void **data);

/**
 * Posts the first `len` bytes of what was reserved.
 *
 * Answers RINGPORT_INVALID if nothing is reserved; RINGPORT_TOO_LARGE if `len` is more than that, and the reservation stays
 * open; RINGPORT_CLOSED if this port was closed meanwhile, and the message is discarded. Whether the peer has closed is asked by
 * the next ringport_reserve: one who has, receives nothing any more.
 */
ringport_status ringport_commit(ringport_port *port,
                                size_t len);

/**
 * Begins a batch: messages that become visible all at once. Answers RINGPORT_BUSY while a reservation or batch is open.
 */
ringport_status ringport_batch_begin(ringport_port *port);

/**
 * Adds a message to the batch. It never waits.
 *
 * Answers RINGPORT_INVALID without a batch; RINGPORT_FULL when the ring has no room for it beside the rest of the batch:
 * publish that, and begin another; RINGPORT_TOO_LARGE, RINGPORT_CLOSED. The batch stays as it was.
 */
ringport_status ringport_batch_post(ringport_port *port,
                                    const void *data,
                                    size_t len);

/**
 * Posts all messages of the batch, and says how many they were. `count` may be NULL.
 *
 * Answers RINGPORT_INVALID without a batch; RINGPORT_CLOSED if this port was closed meanwhile, and the messages are
 * discarded. Whether the peer has closed is asked by ringport_batch_post.
 */
ringport_status ringport_batch_publish(ringport_port *port,
                                       size_t *count);

/**
 * Gives up the reservation or batch that is open, if any. It leaves no trace.
 */
ringport_status ringport_abort(ringport_port *port);

/* ---- Receiving ------------------------------------------------------------------------------------------- */

/**
 * Receives the next message, waiting at most `timeout_ns` nanoseconds (RINGPORT_NO_WAIT, RINGPORT_FOREVER). The caller
 * frees it. Several may be held at once.
 *
 * Answers RINGPORT_NOT_YET if there is none in time; RINGPORT_CLOSED once the channel has ended and everything posted before
 * was received; RINGPORT_SYSTEM for want of descriptors, memory or maps: nothing was lost, the next call receives the same
 * message.
 */
ringport_status ringport_recv(ringport_port *port,
                              int64_t timeout_ns,
                              ringport_message **message);

/**
 * Waits until one of a handful of ports has a message, or its channel has ended, and says which: its index in `ports`.
 * When several are ready they take turns. A port whose channel has ended is ready from then on: leave it out. It takes one
 * more descriptor a port. For more than a few dozen there is the event loop.
 *
 * Answers RINGPORT_NOT_YET if the time was over before; RINGPORT_INVALID if there is no port; RINGPORT_CLOSED if one of them was
 * in a loop and ended there; RINGPORT_SYSTEM.
 */
ringport_status ringport_wait_any(ringport_port *const *ports,
                                  size_t count,
                                  int64_t timeout_ns,
                                  size_t *index);

/**
 * The message's bytes, aligned to 16. They stay as they are, and where they are, until the message is freed or made owned.
 * NULL only for NULL.
 *
 * They are a private copy, unless the port trusts its peer.
 */
const void *ringport_message_data(const ringport_message *message);

/**
 * The message's length in bytes. 0 for NULL, and for an empty message, which is a message all the same.
 */
size_t ringport_message_len(const ringport_message *message);

/**
 * Whether this shows the ring itself and not a copy: see ringport_port_trust_peer. False for NULL.
 */
bool ringport_message_is_in_place(const ringport_message *message);

/**
 * How many ports came with the message, taken or not. 0 for NULL.
 */
size_t ringport_message_port_count(const ringport_message *message);

/**
 * Takes a port that came with the message, by its index in the list that was posted. The caller frees it. It is not
 * trusted and in no loop, whatever it was before.
 *
 * Answers RINGPORT_INVALID for an index beyond the last; RINGPORT_DETACHED if it was taken before.
 */
ringport_status ringport_message_take_port(ringport_message *message,
                                           size_t index,
                                           ringport_port **port);

/**
 * Sets the message apart from its port: from then on any thread may have it, and nothing of the ring is held. A message
 * that is a copy is not copied again; the bytes of one that was shown in place move.
 */
ringport_status ringport_message_make_owned(ringport_message *message);

/**
 * Frees a message. Ports in it that were not taken are closed. NULL is nothing.
 */
void ringport_message_free(ringport_message *message);

/* ---- Archives -------------------------------------------------------------------------------------------- */

/**
 * Messages between Rust programs are rkyv 0.8 archives, which C can read and write. A derived struct is a C struct with the
 * fields in their order and with C's padding; the root of a message, the value that was posted, lies at its very end.
 *
 *     u8 … u64, i8 … i64, f32, f64    themselves, little-endian, aligned to their size
 *     usize, isize                    32 bits
 *     bool                            one byte, 0 or 1
 *     char                            32 bits
 *     String                          8 bytes aligned to 4: ringport_archived_string
 *     Vec<T>, Box<[T]>                8 bytes aligned to 4: ringport_archived_slice
 *     Box<T>                          4 bytes: ringport_archived_box
 *     [T; N], tuples                  as in a struct
 *     Option<T>                       one byte, 0 (None) or 1 (Some), padding, then the value
 *     enum                            one byte, the number of the variant, padding, then its fields
 *
 * What a value leads to (texts, elements, what is boxed) lies before it: in the order of its fields, each thing once; and what
 * elements lead to lies before the elements. Rust refuses an archive in which that is otherwise.
 *
 * Finds the root of the archive that fills `data`: `root_size` bytes at its end, aligned to `root_align`, as `sizeof` and
 * `_Alignof` give them for the struct. Rust checks all of an archive; C checks what it follows, by these functions, and each
 * value that not every pattern of bits is (bool, enum). Answers RINGPORT_BAD_ARCHIVE.
 */
ringport_status ringport_archived_root(const void *data,
                                       size_t len,
                                       size_t root_size,
                                       size_t root_align,
                                       const void **root);

/**
 * Reads a string of an archive. `at` is where its 8 bytes are, inside `data`. `*text` points into `data`: UTF-8, `*text_len`
 * bytes, without a NUL at the end.
 *
 * Answers RINGPORT_BAD_ARCHIVE if it does not lie in `data` as a whole, and before `at`, or is no UTF-8.
 */
ringport_status ringport_archived_string(const void *data,
                                         size_t len,
                                         const void *at,
                                         const char **text,
                                         size_t *text_len);

/**
 * Finds the elements of a vector or boxed slice of an archive. `at` is where its 8 bytes are, inside `data`; an element has
 * `element_size` bytes, aligned to `element_align`. `*elements` points into `data`, to `*count` of them. What is in them is
 * not looked at.
 *
 * Answers RINGPORT_BAD_ARCHIVE if they do not lie in `data` as a whole, or not aligned.
 */
ringport_status ringport_archived_slice(const void *data,
                                        size_t len,
                                        const void *at,
                                        size_t element_size,
                                        size_t element_align,
                                        const void **elements,
                                        size_t *count);

/**
 * Finds what a Box of an archive leads to. `at` is where its 4 bytes are, inside `data`; the value has `size` bytes, aligned to
 * `align`.
 *
 * Answers RINGPORT_BAD_ARCHIVE if it does not lie in `data` as a whole, or not aligned.
 */
ringport_status ringport_archived_box(const void *data,
                                      size_t len,
                                      const void *at,
                                      size_t size,
                                      size_t align,
                                      const void **value);

/**
 * Writes the 8 bytes of a string to `at`, inside `data`, which is being filled. A text of up to 8 bytes is copied into them; a
 * longer one has to lie in `data` already.
 *
 * Answers RINGPORT_BAD_ARCHIVE if `at` or the text does not lie in `data`, or `at` is not aligned to 4; RINGPORT_TOO_LARGE
 * for 1 GiB and more. Whether the text is UTF-8 is seen by who reads it.
 */
ringport_status ringport_archive_string(void *data,
                                        size_t len,
                                        void *at,
                                        const char *text,
                                        size_t text_len);

/**
 * Writes the 8 bytes of a vector or boxed slice to `at`, inside `data`, which is being filled. Its `count` elements lie in
 * `data` from `elements` on, aligned as they need; if there are none, that is where they would lie.
 *
 * Answers RINGPORT_BAD_ARCHIVE if `at` or the first element does not lie in `data`, or `at` is not aligned to 4;
 * RINGPORT_TOO_LARGE for more than 4 G elements.
 */
ringport_status ringport_archive_slice(void *data,
                                       size_t len,
                                       void *at,
                                       const void *elements,
                                       size_t count);

/**
 * Writes the 4 bytes of a Box to `at`, inside `data`, which is being filled: its value lies in `data` from `value` on.
 *
 * Answers RINGPORT_BAD_ARCHIVE if `at` or the value does not lie in `data`, or `at` is not aligned to 4.
 */
ringport_status ringport_archive_box(void *data,
                                     size_t len,
                                     void *at,
                                     const void *value);

/* ---- Handing ports on ------------------------------------------------------------------------------------ */

/**
 * Takes a port apart into the two descriptors that are all of it, without closing it: pass them on in any way, and the port
 * has moved. They are the caller's, who closes them or passes both on; what waits to be received stays with them. The handle
 * is dead (RINGPORT_DETACHED), and still to be freed. Both descriptors close on exec.
 *
 * In a forked child they are copies of the descriptors of a port that is still the parent's: close them.
 *
 * Answers RINGPORT_BUSY while a reservation or messages in place are open, or the port is in a loop; RINGPORT_CLOSED if it has ended
 * in a loop.
 */
ringport_status ringport_port_into_fds(ringport_port *port,
                                       int *segment,
                                       int *doorbell);

/**
 * Makes a port of its two descriptors, checking that they are a segment and a doorbell; that they belong together is the
 * caller's to know. On success they are the port's, and close on exec; on failure they stay the caller's. The caller frees the
 * port.
 *
 * Answers RINGPORT_INVALID for a number that is no open descriptor; RINGPORT_NOT_A_PORT, with what was wrong in
 * ringport_last_error; RINGPORT_SYSTEM.
 */
ringport_status ringport_port_from_fds(int segment,
                                       int doorbell,
                                       ringport_port **port);

/**
 * Moves the port to whoever calls ringport_port_receive on the other end of a Unix socket: a connected one of any type, which
 * the program has for whatever else. It takes one byte of that socket's traffic (a packet of one byte), so both sides have
 * to agree when it comes. It waits if the socket is full, unless that does not block. The handle is dead then
 * (RINGPORT_DETACHED), and still to be freed.
 *
 * Answers RINGPORT_BUSY as ringport_port_into_fds does; RINGPORT_CLOSED_PORT; RINGPORT_INVALID if `socket` is not open;
 * RINGPORT_TOO_MANY_IN_FLIGHT; RINGPORT_SYSTEM with the socket's own error: EAGAIN; EAFNOSUPPORT if it is no Unix socket. The
 * port stays here then.
 */
ringport_status ringport_port_send(ringport_port *port,
                                   int socket);

/**
 * Receives a port that was sent by ringport_port_send, waiting for it at most `timeout_ns` nanoseconds (RINGPORT_NO_WAIT,
 * RINGPORT_FOREVER), whether the socket blocks or not. The caller frees the port, which is not trusted.
 *
 * Answers RINGPORT_NOT_YET; RINGPORT_NOT_A_PORT when something else comes next; RINGPORT_CLOSED when the socket's other end is
 * closed, which one for datagrams does not tell; RINGPORT_INVALID; RINGPORT_SYSTEM as for ringport_port_send. Nothing was read
 * from the socket then. Several may receive from one socket, each port going to one of them, if nothing but ports comes there.
 */
ringport_status ringport_port_receive(int socket,
                                      int64_t timeout_ns,
                                      ringport_port **port);

/* ---- Other people's event loops -------------------------------------------------------------------------- */

/**
 * The descriptor to poll for reading after ringport_port_arm, edge- or level-triggered. It stays the port's, and the same; do
 * not read from it. Answers RINGPORT_SYSTEM when the process is out of descriptors: the first call needs one.
 */
ringport_status ringport_port_fd(ringport_port *port,
                                 int *fd);

/**
 * Says what the port waits for, once, and whether it is there already. `interest` is a ringport_interest.
 *
 * RINGPORT_OK: it is there, or the channel has ended: receive, or post. RINGPORT_NOT_YET: the port's descriptor becomes
 * readable when it is. A call that posts or receives ends the waiting; so does the event. It may become readable for nothing,
 * so arm again until this answers RINGPORT_OK. A message longer than any that can be posted is not waited for: the post says
 * RINGPORT_TOO_LARGE.
 *
 * Also answers RINGPORT_INVALID, and RINGPORT_SYSTEM when the process is out of descriptors.
 */
ringport_status ringport_port_arm(ringport_port *port,
                                  int32_t interest,
                                  size_t len);

/* ---- Settings and figures -------------------------------------------------------------------------------- */

/**
 * Has the port show messages in place from now on, in the ring, instead of copying them out.
 *
 * By calling this the caller promises: nobody who holds or will hold the other end, or ever held either end, writes to this
 * channel but through this library, and each end is one port at a time. Else what a message shows can change while it is
 * read. A port that moves has to be trusted anew by its next holder.
 */
ringport_status ringport_port_trust_peer(ringport_port *port);

/**
 * Chooses how the port waits. `strategy` is a ringport_wait_strategy; RINGPORT_INVALID if not.
 */
ringport_status ringport_port_set_wait_strategy(ringport_port *port, int32_t strategy);

/**
 * Says how the port waits.
 */
ringport_status ringport_port_wait_strategy(const ringport_port *port, ringport_wait_strategy *strategy);

/**
 * Writes what went through the port to `stats`. Answers RINGPORT_BAD_SIZE.
 */
ringport_status ringport_port_stats(const ringport_port *port, ringport_stats *stats);

/**
 * Chooses the barrier for this process. To be called before its first port is made: it holds for ports made afterwards.
 * `barrier` is a ringport_barrier; RINGPORT_INVALID if not.
 */
ringport_status ringport_set_barrier(int32_t barrier);

/* ---- Processes of one's own ------------------------------------------------------------------------------ */

/**
 * Starts a program with a port to this process, which it gets from ringport_parent_port. `argv` are its name, which is looked
 * up in PATH unless it has a `/`, and its arguments, and NULL after the last. `options` may be NULL. The caller frees the port
 * and the child.
 *
 * The program inherits the port's two descriptors and learns of them from the variable RINGPORT_PARENT of its environment.
 *
 * Answers RINGPORT_SPAWN when it cannot be started; RINGPORT_INVALID for an empty `argv`, a string of the environment without
 * `=`, or a stream that is not open; RINGPORT_BAD_SIZE; and what ringport_channel_new answers.
 */
ringport_status ringport_spawn(const char *const *argv,
                               const ringport_spawn_options *options,
                               ringport_port **port,
                               ringport_child **child);

/**
 * The port to the process that started this one by ringport_spawn (in Rust: `Worker::spawn`). The caller frees it. Call it
 * early, before other threads are started: then it also removes the variable RINGPORT_PARENT.
 *
 * Answers RINGPORT_NO_PARENT in any other process, and from the second call on; RINGPORT_NOT_A_PORT or RINGPORT_SYSTEM if what
 * was inherited cannot be used.
 */
ringport_status ringport_parent_port(ringport_port **port);

/**
 * The process's id; 0 for NULL.
 */
int32_t ringport_child_id(const ringport_child *child);

/**
 * Waits until the process has ended. `*wait_status` is what waitpid(2) gives, for WIFEXITED and its like. It can be asked
 * again and again.
 *
 * Answers RINGPORT_BUSY while the child is in a loop, which waits for it; RINGPORT_DETACHED when its end was told by a loop;
 * RINGPORT_SYSTEM.
 */
ringport_status ringport_child_wait(ringport_child *child,
                                    int *wait_status);

/**
 * The same without waiting. Answers RINGPORT_NOT_YET while the process runs.
 */
ringport_status ringport_child_try_wait(ringport_child *child, int *wait_status);

/**
 * Kills the process, by SIGKILL. RINGPORT_OK also if it has ended already. Answers RINGPORT_BUSY while the child is in a loop;
 * RINGPORT_DETACHED after a loop has told its end; RINGPORT_SYSTEM.
 */
ringport_status ringport_child_kill(ringport_child *child);

/**
 * Frees the handle of a process, in a loop or not. It neither kills the process nor waits for it. NULL is nothing.
 */
void ringport_child_free(ringport_child *child);

/* ---- Strangers ------------------------------------------------------------------------------------------- */

/**
 * Listens at a name, or at a path, recognised by a `/`. Names lie in `$XDG_RUNTIME_DIR/ringport`, or in
 * `/tmp/ringport-UID` if that variable is no absolute path, and are for the processes of one user. A socket left behind by a process
 * that died is replaced. `options` may be NULL: this user only, rings of at most 64 MiB. The caller frees the listener.
 *
 * Answers RINGPORT_ADDRESS, RINGPORT_IN_USE, RINGPORT_BAD_SIZE, RINGPORT_SYSTEM.
 */
ringport_status ringport_listen(const char *address,
                                const ringport_listener_options *options,
                                ringport_listener **listener);

/**
 * Waits for a client, at most `timeout_ns` nanoseconds, and gives the port to it, which the caller frees, and who it is, unless
 * `client` is NULL. A client that is not allowed, or does not speak this protocol, is hung up and not waited for.
 *
 * Answers RINGPORT_NOT_YET if none came in time; RINGPORT_BUSY while the listener is in a loop; RINGPORT_SYSTEM for want of
 * descriptors, memory or maps: the client can be accepted by another call within its second.
 */
ringport_status ringport_accept(ringport_listener *listener,
                                int64_t timeout_ns,
                                ringport_port **port,
                                ringport_credentials *client);

/**
 * A descriptor that is readable when ringport_accept should be called, level-triggered; sometimes for nothing. It stays the
 * listener's. Answers RINGPORT_BUSY while the listener is in a loop.
 */
ringport_status ringport_listener_fd(ringport_listener *listener,
                                     int *fd);

/**
 * The socket's path, as long as the listener's handle lives. NULL for NULL.
 */
const char *ringport_listener_path(const ringport_listener *listener);

/**
 * Ends the listening, in a loop or not, and removes the socket. Ports that came out of it stay. NULL is nothing.
 */
void ringport_listener_free(ringport_listener *listener);

/**
 * Connects to a listener: by its name, if that is one of this user's, or by its path, recognised by a `/`. Waits until it has
 * accepted. `options` may be NULL: 64 KiB each way, ten seconds. The caller frees the port.
 *
 * Whoever may write to a directory can listen there: a path in one that others may write to can lead to anybody.
 *
 * Answers RINGPORT_NOBODY_LISTENS, RINGPORT_NOT_ALLOWED, RINGPORT_REFUSED, RINGPORT_TIMED_OUT, RINGPORT_VERSION_MISMATCH,
 * RINGPORT_ADDRESS, RINGPORT_BAD_SIZE, and what ringport_channel_new answers; RINGPORT_CAPACITY also if the listener does not
 * allow it.
 */
ringport_status ringport_connect(const char *address,
                                 const ringport_connect_options *options,
                                 ringport_port **port);

/* ---- The event loop -------------------------------------------------------------------------------------- */

/**
 * Makes a loop with nothing in it. It takes three descriptors. The caller frees it.
 *
 * Ports have their turns one after the other, each at most 64 messages. A callback is called by ringport_loop_run and
 * ringport_loop_run_once only, never from inside a post; it may post, add and remove ports, set timers, and stop or free the
 * loop. It must not throw (longjmp, C++ exceptions): nothing unwinds through this library.
 *
 * With each callback go a pointer for it, `user`, and a function that frees that, `free_user`, or NULL. It is called once, when
 * the callback is not needed any more: replaced, its port, listener or child has left the loop, its timer is over, the loop is
 * freed; and never while the callback runs. If setting the callback fails it is not called. It may call this library, and free
 * the very handles that are used by the call that it comes from.
 *
 * Answers RINGPORT_SYSTEM when the process is out of descriptors.
 */
ringport_status ringport_loop_new(ringport_loop **events);

/**
 * Frees a loop: ports in it are closed, listeners end, processes run on. Their handles are still to be freed: calls on those of
 * ports answer RINGPORT_CLOSED, on those of listeners RINGPORT_DETACHED; those of processes are as before they were added. In a
 * callback of the loop all that comes after the callback has returned. NULL is nothing.
 */
void ringport_loop_free(ringport_loop *events);

/**
 * Puts a port into the loop, not started: messages wait. Its handle stays the caller's, can be used as before, and is freed by
 * the caller, which takes the port out of the loop. A call on it that waits keeps the whole loop waiting; one that receives
 * takes the message from the callback.
 *
 * When its channel has ended and everything was dispatched, the port leaves the loop: after its close callback, if that has
 * not removed it; from then on calls on the handle answer RINGPORT_CLOSED.
 *
 * Answers RINGPORT_BUSY if it is in a loop, or while a reservation or messages in place are open; RINGPORT_CLOSED if it has ended
 * in a loop before; RINGPORT_SYSTEM.
 */
ringport_status ringport_loop_add(ringport_loop *events,
                                  ringport_port *port);

/**
 * Takes a port out of the loop, with everything that waits on it. Its callbacks are gone. To send a port away from inside its
 * own message callback: free the message, remove the port, post it.
 *
 * Answers RINGPORT_NOT_IN_LOOP; RINGPORT_CLOSED if it has left the loop by ending; RINGPORT_BUSY while a reservation or messages in
 * place are open.
 */
ringport_status ringport_loop_remove(ringport_loop *events,
                                     ringport_port *port);

/**
 * Has `call` called for each message of a port in a loop, and starts the port. The message is the callback's: it frees it, at once
 * or later.
 *
 * Answers RINGPORT_NOT_IN_LOOP, RINGPORT_CLOSED.
 */
ringport_status ringport_port_on_message(ringport_port *port,
                                         ringport_on_message call,
                                         void *user,
                                         ringport_free_user free_user);

/**
 * The same without starting the port: messages wait until ringport_port_start.
 */
ringport_status ringport_port_on_message_after_start(ringport_port *port,
                                                     ringport_on_message call,
                                                     void *user,
                                                     ringport_free_user free_user);

/**
 * Starts a port in a loop, for good: its messages are dispatched from then on, and wait as long as there is no callback for them.
 * A second call does nothing. Answers RINGPORT_NOT_IN_LOOP, RINGPORT_CLOSED.
 */
ringport_status ringport_port_start(ringport_port *port);

/**
 * Has `call` called when a message of a port in a loop cannot be received for want of descriptors, memory or maps: RINGPORT_SYSTEM,
 * and ringport_last_error says the rest. Nothing is lost; it is tried again every 10 ms. Does not start the port.
 *
 * Answers RINGPORT_NOT_IN_LOOP, RINGPORT_CLOSED.
 */
ringport_status ringport_port_on_message_error(ringport_port *port,
                                               ringport_on_message_error call,
                                               void *user,
                                               ringport_free_user free_user);

/**
 * Has `call` called once, when the channel of a port in a loop has ended and everything posted before was dispatched, with a
 * ringport_close_reason; not if this side has closed it. Does not start the port; one that is not started is told when nothing
 * waits on it. The callback may free the port's handle.
 *
 * Answers RINGPORT_NOT_IN_LOOP, RINGPORT_CLOSED.
 */
ringport_status ringport_port_on_close(ringport_port *port,
                                       ringport_on_close call,
                                       void *user,
                                       ringport_free_user free_user);

/**
 * Has `call` called once, when a message of `len` bytes can be posted on a port in a loop, `with_ports` or without: what to do
 * after a post has answered RINGPORT_FULL or RINGPORT_TRANSFERS_FULL. It takes the place of one set before, and is not called if
 * the channel ends before that. The port need not be started. A message longer than any that can be posted is not waited for:
 * the post says RINGPORT_TOO_LARGE.
 *
 * Answers RINGPORT_NOT_IN_LOOP, RINGPORT_CLOSED.
 */
ringport_status ringport_port_on_room(ringport_port *port,
                                      size_t len,
                                      bool with_ports,
                                      ringport_on_room call,
                                      void *user,
                                      ringport_free_user free_user);

/**
 * Runs callbacks until ringport_loop_stop is called, or nothing is left that could happen: no port, no listener, no process, no
 * timer, and no callback for wakes.
 *
 * Answers RINGPORT_BUSY in a callback of the loop; RINGPORT_SYSTEM if it cannot wait.
 */
ringport_status ringport_loop_run(ringport_loop *events);

/**
 * Waits at most `timeout_ns` nanoseconds (RINGPORT_NO_WAIT, RINGPORT_FOREVER) until something happens, and runs the callbacks for
 * what is there. Every port that is ready has one turn.
 *
 * Answers RINGPORT_NOT_YET if nothing happened in time, or when ringport_loop_run would return; else as that.
 */
ringport_status ringport_loop_run_once(ringport_loop *events,
                                       int64_t timeout_ns);

/**
 * Ends ringport_loop_run after the callback that runs now; what is not dispatched yet is when it is run again. When nothing runs,
 * the next run returns at once.
 */
ringport_status ringport_loop_stop(ringport_loop *events);

/**
 * Has `call` called once, after `delay_ns` nanoseconds or a little later. `timer` may be NULL; it gets the timer's number, which no
 * other has in this process.
 */
ringport_status ringport_loop_set_timeout(ringport_loop *events,
                                          uint64_t delay_ns,
                                          ringport_on_event call,
                                          void *user,
                                          ringport_free_user free_user,
                                          uint64_t *timer);

/**
 * Has `call` called every `period_ns` nanoseconds, less than a thousand counting as that, for the first time after one period.
 * When the loop is busy for longer than that, calls are left out.
 */
ringport_status ringport_loop_set_interval(ringport_loop *events,
                                           uint64_t period_ns,
                                           ringport_on_event call,
                                           void *user,
                                           ringport_free_user free_user,
                                           uint64_t *timer);

/**
 * Calls off a timer. Answers RINGPORT_NOT_IN_LOOP if it is over, or was called off before.
 */
ringport_status ringport_loop_clear_timer(ringport_loop *events, uint64_t timer);

/**
 * Has `call` called after ringport_waker_wake: once for all wakes since the last time. It stays until it is replaced, and as long
 * as it is there ringport_loop_run goes on.
 */
ringport_status ringport_loop_on_wake(ringport_loop *events,
                                      ringport_on_event call,
                                      void *user,
                                      ringport_free_user free_user);

/**
 * Makes what wakes the loop from another thread. The caller frees it, before or after the loop.
 */
ringport_status ringport_loop_waker(ringport_loop *events, ringport_waker **waker);

/**
 * Wakes the loop, from any thread: its wake callback is called, and in any case a ringport_loop_run_once that waits returns. When
 * the loop is gone nothing happens.
 */
ringport_status ringport_waker_wake(const ringport_waker *waker);

/**
 * Frees a waker. NULL is nothing.
 */
void ringport_waker_free(ringport_waker *waker);

/**
 * The loop's own descriptor, for a loop around it: readable, level-triggered, when ringport_loop_run_once has something to do. It
 * stays the loop's.
 */
ringport_status ringport_loop_fd(ringport_loop *events,
                                 int *fd);

/**
 * Chooses how the loop waits; how its ports would by themselves does not matter. `strategy` is a ringport_wait_strategy;
 * RINGPORT_INVALID if not.
 */
ringport_status ringport_loop_set_wait_strategy(ringport_loop *events,
                                                int32_t strategy);

/**
 * Puts a listener into the loop: `call` gets the port to each client, and who it is. When accepting fails, for want of
 * descriptors, memory or maps, it gets the status; the client waits on, and is tried again after 10 ms. The listener's handle
 * stays the caller's.
 *
 * Answers RINGPORT_BUSY if it is in a loop; RINGPORT_SYSTEM.
 */
ringport_status ringport_loop_add_listener(ringport_loop *events,
                                           ringport_listener *listener,
                                           ringport_on_connect call,
                                           void *user,
                                           ringport_free_user free_user);

/**
 * Takes a listener out of the loop; clients wait on. Answers RINGPORT_NOT_IN_LOOP.
 */
ringport_status ringport_loop_remove_listener(ringport_loop *events, ringport_listener *listener);

/**
 * Has `call` called once, when the process ends, with its status. Messages that it has posted arrive as those of any other port,
 * perhaps after this. The child's handle stays the caller's, and has left the loop then.
 *
 * Answers RINGPORT_BUSY if it is in a loop; RINGPORT_SYSTEM: it takes one descriptor.
 */
ringport_status ringport_loop_add_child(ringport_loop *events,
                                        ringport_child *child,
                                        ringport_on_exit call,
                                        void *user,
                                        ringport_free_user free_user);

/**
 * Takes a process out of the loop. Answers RINGPORT_NOT_IN_LOOP, also when its end was told.
 */
ringport_status ringport_loop_remove_child(ringport_loop *events, ringport_child *child);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* RINGPORT_H */

/* What structs begin with: their size, and the defaults. */
#define RINGPORT_CHANNEL_OPTIONS_INIT {sizeof(ringport_channel_options), 0, 0, false, false}
#define RINGPORT_STATS_INIT {sizeof(ringport_stats), 0, 0, 0, 0, 0, 0, 0, 0, 0}
#define RINGPORT_SPAWN_OPTIONS_INIT {sizeof(ringport_spawn_options), NULL, NULL, NULL}
#define RINGPORT_LISTENER_OPTIONS_INIT {sizeof(ringport_listener_options), NULL, 0, false, 0, 0}
#define RINGPORT_CONNECT_OPTIONS_INIT {sizeof(ringport_connect_options), RINGPORT_CHANNEL_OPTIONS_INIT, 10000000000}
