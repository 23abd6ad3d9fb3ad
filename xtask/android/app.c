/* app LIBRARY BUNDLE MODELS: loads libknapsack.so as an app does, makes every kind of call that can fail fail once, and prints an
 * answer of the package's only model. */
#include "knapsack.h"
#include "relocate.h"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char model[256];

#define LOAD(name) __typeof__(name) *name##_ = (__typeof__(name) *)dlsym(library, #name)
/* What the library says of the failure, if anything. */
static KnapsackError *error = NULL;
static KnapsackStr (*message_of)(const KnapsackError *) = NULL;

#define CHECK(condition)                                                                                                           \
    do {                                                                                                                           \
        if (!(condition)) {                                                                                                        \
            KnapsackStr why = error && message_of ? message_of(error) : (KnapsackStr){NULL, 0}; \
            fprintf(stderr, "line %d: %s: %.*s\n", __LINE__, #condition, (int)why.len, (const char *)why.data); \
            exit(1);                                                                                                               \
        }                                                                                                                          \
    } while (0)

static KnapsackStr text(const char *string) { return (KnapsackStr){(const uint8_t *)string, strlen(string)}; }

static void on_model(void *context, const KnapsackModelInfo *info) {
    (void)context;
    snprintf(model, sizeof model, "%.*s", (int)info->id.len, (const char *)info->id.data);
}

static bool on_piece(void *context, uint32_t kind, KnapsackStr piece) {
    (void)kind;
    ++*(int *)context;
    return fwrite(piece.data, 1, piece.len, stdout) == piece.len;
}

static bool end_at_once(void *context, uint32_t kind, KnapsackStr piece) {
    (void)context, (void)kind, (void)piece;
    return false;
}

int main(int argc, char **argv) {
    CHECK(argc == 4);
    void *library = dlopen(argv[1], RTLD_NOW);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    relocate(library);
    LOAD(knapsack_abi_version);
    LOAD(knapsack_open);
    LOAD(knapsack_models);
    LOAD(knapsack_answer);
    LOAD(knapsack_cancel_new);
    LOAD(knapsack_cancel_raise);
    LOAD(knapsack_cancel_free);
    LOAD(knapsack_error_code);
    LOAD(knapsack_error_message);
    LOAD(knapsack_error_free);
    LOAD(knapsack_load);
    LOAD(knapsack_close);
    CHECK(knapsack_abi_version_() == KNAPSACK_ABI_VERSION);

    message_of = knapsack_error_message_;
    KnapsackOpen open = {.size = sizeof open, .bundle = text(argv[2]), .library = text("/nowhere.so"), .budget = 1ull << 30};
    CHECK(!knapsack_open_(&open, &error) && knapsack_error_code_(error) == 5);
    error = (knapsack_error_free_(error), NULL);
    open.library = text(argv[3]);
    open.bundle = text("/nowhere");
    CHECK(!knapsack_open_(&open, &error) && knapsack_error_code_(error) == 3);
    error = (knapsack_error_free_(error), NULL);
    open.bundle = text(argv[2]);
    KnapsackModels *models = knapsack_open_(&open, &error);
    if (!models) {
        KnapsackStr message = knapsack_error_message_(error);
        fprintf(stderr, "%.*s\n", (int)message.len, (const char *)message.data);
        return 1;
    }
    CHECK(knapsack_models_(models, on_model, NULL, &error) && model[0]);

    /* A flag is for one call: a callback that ends its answer raises it. */
    KnapsackCancel *ended = knapsack_cancel_new_(), *never = knapsack_cancel_new_(), *at_once = knapsack_cancel_new_();
    knapsack_cancel_raise_(at_once);
    CHECK(!knapsack_load_(models, text(model), at_once, &error) && knapsack_error_code_(error) == 16);
    error = (knapsack_error_free_(error), NULL);
    const char *turns = "{\"temperature\": %d, \"messages\": [{\"role\": \"user\", \"content\": \"What is 37 plus 48?\"}]}";
    char question[200], refused[200];
    snprintf(question, sizeof question, turns, 0);
    snprintf(refused, sizeof refused, turns, -1);
    KnapsackAnswer answer = {.size = sizeof answer};
    CHECK(knapsack_answer_(models, text(model), text(question), 0, ended, end_at_once, NULL, &answer, &error));
    CHECK(answer.finish == 2);
    int pieces = 0;
    CHECK(knapsack_answer_(models, text(model), text(question), 0, never, on_piece, &pieces, &answer, &error));
    CHECK(answer.finish == 0 && pieces > 0 && answer.generated_tokens > 0);
    CHECK(!knapsack_answer_(models, text(model), text(refused), 0, never, on_piece, &pieces, &answer, &error));
    CHECK(knapsack_error_code_(error) == 2);
    error = (knapsack_error_free_(error), NULL);
    printf("\n");
    knapsack_cancel_free_(ended);
    knapsack_cancel_free_(never);
    knapsack_cancel_free_(at_once);
    knapsack_close_(models);
    return 0;
}
