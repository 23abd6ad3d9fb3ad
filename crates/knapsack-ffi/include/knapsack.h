/* Knapsack's runtime for apps. Swift's package and everything else that is not Kotlin sits on this.
 *
 * Rules. Every function blocks and may be called from any thread; run it off the main thread. Callbacks come before the call
 * returns, on the calling thread, but for those of KnapsackTransport, which come on threads of the download. Strings are UTF-8
 * with a length and live as long as the call or callback that they are given to. A struct that is passed in begins with its own
 * size and only ever grows at its end. A function that can fail takes a KnapsackError ** (may be null) and returns null or false
 * then; the error is the caller's to free. A handle may be freed when no call with it is running.
 *
 * `cargo xtask check` holds this file against the Rust code. */
#ifndef KNAPSACK_H
#define KNAPSACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What knapsack_abi_version returns. A wrapper that was made for another one must not go on. */
#define KNAPSACK_ABI_VERSION 3

typedef struct KnapsackModels KnapsackModels;
typedef struct KnapsackCancel KnapsackCancel;
typedef struct KnapsackError KnapsackError;

typedef struct KnapsackStr {
    const uint8_t *data;
    size_t len;
} KnapsackStr;

/* -- Errors. Codes: 1 internal, 2 invalid argument, 3 package unusable, 4 no such model, 5 library missing, 6 library unusable,
 *    7 not downloaded, 8 network (numbers: HTTP status, seconds to wait), 9 no space (needed, available), 10 wrong content,
 *    11 not enough memory (needed, available), 12 in use, 13 device failed, 14 prompt too long (tokens, context), 15 template,
 *    16 cancelled, 17 in the background, 18 saved state unusable. -- */

/* Who holds a part of the memory budget. How: 0 idle, 1 pinned, 2 in use, 3 loading. */
typedef struct KnapsackHolder {
    KnapsackStr model_id;
    uint64_t bytes;
    uint32_t how;
} KnapsackHolder;

uint32_t knapsack_abi_version(void);
uint32_t knapsack_error_code(const KnapsackError *error);
KnapsackStr knapsack_error_message(const KnapsackError *error);
uint64_t knapsack_error_number(const KnapsackError *error, size_t index);
/* False when there are not so many. */
bool knapsack_error_holder(const KnapsackError *error, size_t index, KnapsackHolder *holder);
void knapsack_error_free(KnapsackError *error);

/* -- A flag that ends a running call from another thread. For one call: it cannot be lowered. -- */

KnapsackCancel *knapsack_cancel_new(void);
void knapsack_cancel_raise(const KnapsackCancel *cancel);
void knapsack_cancel_free(KnapsackCancel *cancel);

/* -- What happens inside, for the app's log. -- */

/* A line. Level: 1 error, 2 warning, 3 info, 4 debug, 5 trace. Comes from any thread. */
typedef void (*KnapsackOnLog)(void *context, uint32_t level, KnapsackStr part, KnapsackStr text);

/* Gives every line up to `level` to `on_log` from now on, in the whole process; null: nobody is told, which is how it begins. */
void knapsack_set_log(uint32_t level, KnapsackOnLog on_log, void *context);

/* -- Opening -- */

/* What happened to a model. Kind: 0 loading (value: share that is done, in millionths), 1 loaded (bytes), 2 evicted for another's
 * sake, 3 under memory pressure, 4 because it was asked for (bytes), 5 failed (text: why). */
typedef void (*KnapsackOnEvent)(void *context, uint32_t kind, KnapsackStr model_id, uint64_t value, KnapsackStr text);

/* GETs `url` from byte `from` on. Returns the HTTP status, or 0 without an answer; on 200 and 206 sets a body. On 429 and 503 sets
 * `wait` to the seconds of Retry-After, if there is one. */
typedef int32_t (*KnapsackGet)(void *context, KnapsackStr url, uint64_t from, void **body, uint64_t *wait);
/* Fills the buffer; 0: the end, negative: the connection broke. Blocks. */
typedef int64_t (*KnapsackRead)(void *context, void *body, uint8_t *buffer, size_t length);
/* Called once for each body. */
typedef void (*KnapsackEnd)(void *context, void *body);

/* How the bytes of downloads are moved. `get` null: they are not. */
typedef struct KnapsackTransport {
    void *context;
    KnapsackGet get;
    KnapsackRead read;
    KnapsackEnd end;
} KnapsackTransport;

typedef struct KnapsackOpen {
    size_t size;
    /* The package's `bundle` folder. */
    KnapsackStr bundle;
    /* The address of knapsack_model_table; null: it is in `library`. */
    const void *table;
    /* A shared library with the model table. */
    KnapsackStr library;
    /* The folder for downloaded models; empty: none. */
    KnapsackStr storage;
    /* Bytes that loaded models may take; 0: what the system says. */
    uint64_t budget;
    /* What stops in the background: 0 work on a GPU, 1 every answer, 2 nothing. */
    uint32_t background;
    KnapsackTransport transport;
    /* May be null. On the thread whose call caused the event, before that call returns. */
    KnapsackOnEvent on_event;
    void *event_context;
} KnapsackOpen;

KnapsackModels *knapsack_open(const KnapsackOpen *options, KnapsackError **error);
void knapsack_close(KnapsackModels *models);

/* -- Models -- */

typedef struct KnapsackModelInfo {
    KnapsackStr id;
    /* Bytes when it is loaded. */
    uint64_t memory;
    /* Most tokens of a conversation; 0: no end. */
    uint32_t context;
    /* Bytes to download before its first use; 0: bundled. */
    uint64_t download;
    /* Empty: none. */
    KnapsackStr revision;
} KnapsackModelInfo;

typedef void (*KnapsackOnModel)(void *context, const KnapsackModelInfo *model);

/* Gives every model to `on_model`. */
bool knapsack_models(const KnapsackModels *models, KnapsackOnModel on_model, void *context, KnapsackError **error);

/* Kind: 0 bundled, 1 ready, 2 missing, 3 partly downloaded. */
typedef struct KnapsackState {
    uint32_t kind;
    uint64_t done;
    uint64_t total;
} KnapsackState;

bool knapsack_state(const KnapsackModels *models, KnapsackStr id, KnapsackState *state, KnapsackError **error);

/* False stops the download; a later call takes it up again. */
typedef bool (*KnapsackOnProgress)(void *context, uint64_t done, uint64_t total);

bool knapsack_prepare(const KnapsackModels *models, KnapsackStr id, const KnapsackCancel *cancel, KnapsackOnProgress on_progress, void *context, KnapsackError **error);

/* For apps whose system downloads: what a model consists of, and a file that arrived. `complete`: it was the last, and the model can
 * be used. The file is moved away; one that is not the packaged one is removed and still wanted. */
typedef struct KnapsackWanted {
    KnapsackStr url;
    /* Its name in the model. */
    KnapsackStr path;
    uint64_t bytes;
    /* Whether it is here already. */
    bool have;
} KnapsackWanted;

typedef void (*KnapsackOnWanted)(void *context, const KnapsackWanted *file);

bool knapsack_wanted(const KnapsackModels *models, KnapsackStr id, KnapsackOnWanted on_file, void *context, KnapsackError **error);
bool knapsack_adopt(const KnapsackModels *models, KnapsackStr id, KnapsackStr path, KnapsackStr file, bool *complete, KnapsackError **error);
/* Takes note of where a file of a store's pack lies; it is used there. To be called again after each start. */
bool knapsack_place(const KnapsackModels *models, KnapsackStr id, KnapsackStr path, KnapsackStr file, bool *complete, KnapsackError **error);
/* The same for a file without a path of its own: `length` bytes at `offset` of an open file, whose descriptor stays the caller's. */
bool knapsack_place_range(const KnapsackModels *models, KnapsackStr id, KnapsackStr path, int32_t descriptor, uint64_t offset, uint64_t length, bool *complete, KnapsackError **error);
/* Checks every byte of a downloaded model; sets `wrong` to the files that were wrong, which are removed and wanted again. */
bool knapsack_verify(const KnapsackModels *models, KnapsackStr id, uint64_t *wrong, KnapsackError **error);
/* Sets `removed` to whether there was anything. */
bool knapsack_remove(const KnapsackModels *models, KnapsackStr id, bool *removed, KnapsackError **error);
/* Whether the model fits into the budget when nothing else is in use. */
bool knapsack_fits(const KnapsackModels *models, KnapsackStr id, KnapsackError **error);
bool knapsack_load(const KnapsackModels *models, KnapsackStr id, const KnapsackCancel *cancel, KnapsackError **error);
/* Sets `unloaded` to whether it was loaded. */
bool knapsack_unload(const KnapsackModels *models, KnapsackStr id, bool *unloaded, KnapsackError **error);
bool knapsack_pin(const KnapsackModels *models, KnapsackStr id, bool pinned, KnapsackError **error);
/* Frees what is not in use; returns the bytes. */
uint64_t knapsack_memory_pressure(const KnapsackModels *models, bool critical);
void knapsack_set_budget(const KnapsackModels *models, uint64_t bytes);
/* The app goes to the background. Returns when nothing computes any more. */
void knapsack_pause(const KnapsackModels *models);
void knapsack_resume(const KnapsackModels *models);

/* -- Answers -- */

/* Finish: 0 stop, 1 length, 2 cancelled, 3 the app went to the background. */
typedef struct KnapsackAnswer {
    size_t size;
    uint32_t finish;
    uint64_t prompt_tokens;
    uint64_t reused_tokens;
    uint64_t generated_tokens;
    uint64_t dropped_messages;
    uint64_t prefill_ns;
    uint64_t decode_ns;
    /* Those of generated_tokens that the model thought with before its answer. */
    uint64_t thinking_tokens;
} KnapsackAnswer;

/* Kind: 0 text, 1 what the model thinks before its answer, 2 a call of a tool (JSON as in OpenAI's tool_calls), 3 a token with its log
 * probability (JSON as in OpenAI's logprobs.content). False ends the answer. */
typedef bool (*KnapsackOnPiece)(void *context, uint32_t kind, KnapsackStr text);
/* False ends the answer. */
typedef bool (*KnapsackOnText)(void *context, KnapsackStr text);

/* Answers a conversation; loads the model first if it is not there. `request` is one of OpenAI's chat completions (JSON, see
 * docs/serving.md), of which `model`, `stream` and `n` mean nothing here. `when_full`: a conversation that has outgrown the context
 * 0 loses its oldest turns, 1 is an error. The caller sets the size of `answer`. */
bool knapsack_answer(const KnapsackModels *models, KnapsackStr id, KnapsackStr request, uint32_t when_full, const KnapsackCancel *cancel, KnapsackOnPiece on_piece, void *context, KnapsackAnswer *answer, KnapsackError **error);
/* What is computed of a conversation, in a file, so that a long beginning is computed once. Saving computes what the prompt begins with
 * whatever its last message says, unless that is there, and replaces `file`; `request` and `when_full` are as above. Restoring takes it
 * back: the next answer of a conversation that begins so counts it as reused_tokens. It holds no text, but the conversation's tokens. A
 * file that is damaged, or of another model, version or kind of device is error 18, and answers are computed from their beginning. */
bool knapsack_save_state(const KnapsackModels *models, KnapsackStr id, KnapsackStr request, uint32_t when_full, KnapsackStr file, const KnapsackCancel *cancel, KnapsackError **error);
bool knapsack_restore_state(const KnapsackModels *models, KnapsackStr id, KnapsackStr file, const KnapsackCancel *cancel, KnapsackError **error);
/* Answers a request of OpenAI's chat completions (JSON); each event is JSON: `chat.completion.chunk` where the request streams, else
 * one `chat.completion`. The message of an error is the JSON that OpenAI's clients expect. */
bool knapsack_complete(const KnapsackModels *models, KnapsackStr request, const KnapsackCancel *cancel, KnapsackOnText on_event, void *context, KnapsackError **error);

#ifdef __cplusplus
}
#endif
#endif
