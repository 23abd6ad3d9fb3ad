use crate::grammar::GrammarError;
use crate::sampling::InvalidSampling;
use crate::text::TextError;
use knapsack_device::DeviceError;

/// Why a model could not be opened or an answer not be generated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the message says what the fields are")]
pub enum EngineError {
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Tokenizer or template failed.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A sampling option is out of range.
    #[error(transparent)]
    Sampling(#[from] InvalidSampling),
    /// The answer cannot be held to the form that was asked for.
    #[error(transparent)]
    Grammar(#[from] GrammarError),
    /// There is nothing to start from.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// The prompt does not fit into the context.
    #[error("the prompt has {tokens} tokens, but the model was compiled for a context of {context}")]
    PromptTooLong {
        tokens: usize,
        /// Most positions of a conversation.
        context: u32,
    },
    /// A token that the model does not know.
    #[error("token {token} is outside the model's vocabulary of {vocab_size}")]
    TokenOutOfRange {
        token: u32,
        /// Rows of the logits.
        vocab_size: u32,
    },
    /// The model computed no usable number.
    #[error("the model's logits at position {position} hold no usable number")]
    NoLogits {
        /// The position whose logits are unusable.
        position: u32,
    },
    /// The caller raised its cancel flag.
    #[error("cancelled")]
    Cancelled,
    /// The app paused its models ([`crate::Activity::pause`]).
    #[error("paused: the app is in the background")]
    Paused,
}

impl EngineError {
    /// Whether it happened because the app is in the background: it paused its models, or the system refused the GPU.
    pub const fn is_backgrounded(&self) -> bool {
        matches!(self, EngineError::Paused | EngineError::Device(DeviceError::NotPermitted { .. }))
    }
}

impl EngineError {
    /// A form that turned out to be too much while an answer was held to it.
    pub(crate) fn grammar(problem: String) -> Self {
        EngineError::Grammar(GrammarError::new("grammar", problem))
    }
}
