//! The kinds of diagnostics. Their names are stable: scripts match on them.

use crate::diagnostic::Code;

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal;)*) => {
        $($(#[doc = $doc])+ pub const $name: Code = $code;)*

        /// Every code with what it means.
        pub const ALL: &[(Code, &str)] = &[$(($code, concat!($($doc),+))),*];
    };
}

codes! {
    /// A file can not be read.
    UNREADABLE = "unreadable";
    /// A file is text in no encoding of Unicode.
    ENCODING = "encoding";
    /// A file is larger, deeper or longer than a manifest may be.
    TOO_LARGE = "too-large";
    /// A file is not JSON with comments.
    SYNTAX = "syntax";
    /// A key stands twice in one object.
    DUPLICATE_KEY = "duplicate-key";
    /// A key that does not exist.
    UNKNOWN_KEY = "unknown-key";
    /// A key that must be there is not.
    MISSING_KEY = "missing-key";
    /// A value of another JSON type than is needed.
    WRONG_TYPE = "wrong-type";
    /// A null that has nothing to remove.
    NULL_WITHOUT_BASE = "null-without-base";
    /// A list or a text that must not be empty is.
    EMPTY = "empty";
    /// A device that Knapsack can not package for.
    UNKNOWN_DEVICE = "unknown-device";
    /// A model source that can not be understood.
    BAD_SOURCE = "bad-source";
    /// A local path that does not exist.
    MISSING_PATH = "missing-path";
    /// A local folder that is neither a checkpoint nor an MLC model.
    NOT_A_MODEL = "not-a-model";
    /// A model id that can not be a folder name everywhere.
    BAD_MODEL_ID = "bad-model-id";
    /// Two models with the same id, or ids that differ only in case.
    DUPLICATE_MODEL_ID = "duplicate-model-id";
    /// A size in bytes that is not a positive whole number.
    BAD_SIZE = "bad-size";
    /// An override whose value is out of range.
    BAD_OVERRIDE = "bad-override";
    /// Two overrides that can not both hold.
    OVERRIDE_CONFLICT = "override-conflict";
    /// An override that changes nothing.
    OVERRIDE_WITHOUT_EFFECT = "override-without-effect";
    /// A local model that is not bundled: no app could get its weights.
    NO_URL = "no-url";
    /// A delivery of weights that does not exist.
    UNKNOWN_DELIVERY = "unknown-delivery";
    /// A delivery of weights that contradicts the device, the model or `bundle_weight`.
    DELIVERY_CONFLICT = "delivery-conflict";
    /// Two models whose packs would have one name.
    DUPLICATE_PACK = "duplicate-pack";
    /// More than a store takes, or possibly more.
    STORE_LIMIT = "store-limit";
    /// Bundled weights that are more than the library for Gradle holds.
    BUNDLE_APART = "bundle-apart";
    /// A library prefix that can not be a symbol.
    BAD_MODEL_LIB = "bad-model-lib";
    /// A prebuilt library that does not exist.
    MISSING_PREBUILT = "missing-prebuilt";
    /// A prebuilt library that no model uses.
    UNUSED_PREBUILT = "unused-prebuilt";
    /// A quantization format that does not exist.
    UNKNOWN_QUANTIZATION = "unknown-quantization";
    /// A chat template that does not exist.
    UNKNOWN_CHAT_TEMPLATE = "unknown-chat-template";
    /// A chat template that does not parse, or fails.
    BAD_CHAT_TEMPLATE = "bad-chat-template";
    /// A quantization or chat template for a model that is converted already.
    NOT_A_CHECKPOINT = "not-a-checkpoint";
    /// A phone that is in no profile.
    UNKNOWN_TARGET_DEVICE = "unknown-target-device";
    /// A phone of another platform than the manifest packages for.
    TARGET_DEVICE_PLATFORM = "target-device-platform";
    /// Files that extend each other in a circle.
    EXTENDS_CYCLE = "extends-cycle";
    /// A chain of extending files that is too long.
    EXTENDS_DEPTH = "extends-depth";
    /// A value that was chosen because the manifest leaves it open.
    CHOSEN = "chosen";
    /// A plan that needs more memory than the budget allows.
    OVER_BUDGET = "over-budget";
    /// A buffer larger than the GPU of a target phone can have.
    BUFFER_TOO_LARGE = "buffer-too-large";
    /// A KV cache larger than the weights.
    LARGE_KV_CACHE = "large-kv-cache";
    /// A budget more than twice what the plan needs.
    BUDGET_TOO_LARGE = "budget-too-large";
    /// A context beyond the positions that the model was trained for.
    BEYOND_TRAINED_POSITIONS = "beyond-trained-positions";
    /// A chunk larger than the model's own window.
    CHUNK_BEYOND_WINDOW = "chunk-beyond-window";
    /// Models that share a library prefix but compile to different libraries.
    DIFFERENT_LIBRARIES = "different-libraries";
    /// A prebuilt library for another device, prefix or model.
    PREBUILT_MISMATCH = "prebuilt-mismatch";
    /// A model whose architecture or configuration is not supported.
    UNSUPPORTED_MODEL = "unsupported-model";
    /// Weights that are not those of the model's configuration, or files that belong to them and are not there.
    WEIGHTS_MISMATCH = "weights-mismatch";
    /// A model without the file that it needs to read and write text.
    NO_TOKENIZER = "no-tokenizer";
    /// A model without a chat template that can be used.
    NO_CHAT_TEMPLATE = "no-chat-template";
    /// A checkpoint for which MLC's apps will find no conversation template.
    NO_CONV_TEMPLATE = "no-conv-template";
    /// A lockfile that would have to change, and may not.
    LOCK_OUT_OF_DATE = "lock-out-of-date";
    /// A model source that does not exist, may not be read, or is damaged.
    BAD_MODEL_SOURCE = "bad-model-source";
    /// A model source that cannot be had now: the network, the disk. The only error after which the same run may succeed.
    SOURCE_FAILED = "source-failed";
    /// More findings than are shown.
    MORE = "more";
}

#[cfg(test)]
mod tests {
    #[test]
    fn codes_are_unique_and_documented() {
        let mut names: Vec<&str> = super::ALL.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), super::ALL.len());
        assert!(super::ALL.iter().all(|(_, doc)| doc.trim().ends_with('.')));
    }
}
