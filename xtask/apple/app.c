/* An app: it names the table of its models and the calls of the runtime that it makes. */
#include "knapsack.h"

extern const unsigned char knapsack_model_table[];

static bool on_piece(void *context, uint32_t kind, KnapsackStr text) {
    (void)context, (void)kind;
    return text.len > 0;
}

int main(void) {
    KnapsackError *error = NULL;
    KnapsackOpen open = {.size = sizeof open, .table = knapsack_model_table};
    KnapsackModels *models = knapsack_open(&open, &error);
    KnapsackCancel *cancel = knapsack_cancel_new();
    KnapsackStr none = {NULL, 0};
    KnapsackAnswer answer = {.size = sizeof answer};
    bool answered = knapsack_answer(models, none, none, 0, cancel, on_piece, NULL, &answer, &error);
    return answered && knapsack_abi_version() == KNAPSACK_ABI_VERSION ? 0 : 1;
}
