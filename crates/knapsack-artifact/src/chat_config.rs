//! `mlc-chat-config.json`: what the runtime must know of a model beside its weights. Fields that are not known are kept.

use crate::conv_template::ConvTemplate;
use crate::json::{self, JsonError};
use crate::weight_index::read_bounded;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::io;
use std::path::{Path, PathBuf};

/// The file's name.
pub const FILE_NAME: &str = "mlc-chat-config.json";
/// Largest file that is read, in bytes.
pub const MAX_BYTES: u64 = 16 << 20;

/// One token id or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TokenIds {
    /// One.
    One(u32),
    /// Several.
    Many(Vec<u32>),
}

impl TokenIds {
    /// All of them.
    pub fn ids(&self) -> &[u32] {
        match self {
            TokenIds::One(id) => std::slice::from_ref(id),
            TokenIds::Many(ids) => ids,
        }
    }
}

/// How tokens become text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenPostproc {
    /// `<0x0A>` is a byte and `▁` a space (SentencePiece).
    ByteFallback,
    /// Each character of a token stands for a byte (GPT-2).
    ByteLevel,
}

/// What MLC finds out about a tokenizer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenizerInfo {
    /// How tokens become text.
    #[serde(default = "byte_fallback")]
    pub token_postproc_method: TokenPostproc,
    /// Whether encoding puts a space in front.
    #[serde(default)]
    pub prepend_space_in_encode: bool,
    /// Whether decoding removes the first space.
    #[serde(default)]
    pub strip_space_in_decode: bool,
}

const fn byte_fallback() -> TokenPostproc {
    TokenPostproc::ByteFallback
}

impl Default for TokenizerInfo {
    fn default() -> Self {
        TokenizerInfo {
            token_postproc_method: byte_fallback(),
            prepend_space_in_encode: false,
            strip_space_in_decode: false,
        }
    }
}

/// The conversation template as it is written: MLC's whole object, or only a name (in older files, and where the object
/// has nothing but a `name`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ConvTemplateField {
    /// A name.
    Name(String),
    /// The template.
    Template(Box<ConvTemplate>),
}

/// The content of an `mlc-chat-config.json`. Windows and sizes of -1 mean "not set".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChatConfig {
    /// Version of the format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Family, such as `llama`.
    pub model_type: String,
    /// Quantization format, such as `q4f16_1`.
    pub quantization: String,
    /// The architecture, in the family's own terms.
    pub model_config: Map<String, Value>,
    /// Rows of the logits.
    #[serde(default)]
    pub vocab_size: i64,
    /// Most positions of a conversation.
    #[serde(default = "unset")]
    pub context_window_size: i64,
    /// Positions that a query sees.
    #[serde(default = "unset")]
    pub sliding_window_size: i64,
    /// Most tokens of one prefill call.
    #[serde(default = "unset")]
    pub prefill_chunk_size: i64,
    /// First positions that stay visible beyond the sliding window.
    #[serde(default = "unset")]
    pub attention_sink_size: i64,
    /// Always 1 here.
    #[serde(default = "one")]
    pub tensor_parallel_shards: i64,
    /// Always 1 here.
    #[serde(default = "one")]
    pub pipeline_parallel_stages: i64,
    /// Tokens that the tokenizer knows; ids from here on are never sampled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_vocab_size: Option<i64>,
    /// Sampling temperature.
    #[serde(default)]
    pub temperature: Option<f64>,
    /// Subtracted from the logits of tokens that occurred.
    #[serde(default)]
    pub presence_penalty: Option<f64>,
    /// Subtracted for each occurrence.
    #[serde(default)]
    pub frequency_penalty: Option<f64>,
    /// Divides the logits of tokens that occurred.
    #[serde(default)]
    pub repetition_penalty: Option<f64>,
    /// Probability mass that is sampled from.
    #[serde(default)]
    pub top_p: Option<f64>,
    /// Tokenizer files in the folder.
    #[serde(default)]
    pub tokenizer_files: Vec<String>,
    /// What MLC finds out about the tokenizer.
    #[serde(default)]
    pub tokenizer_info: TokenizerInfo,
    /// The conversation template, in MLC's form.
    #[serde(default)]
    pub conv_template: Option<ConvTemplateField>,
    /// The file of the folder with the model's own Jinja template, where that one is to be used and `conv_template` is only there
    /// for readers that know no Jinja. Not one of MLC's keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<String>,
    /// Padding token.
    #[serde(default)]
    pub pad_token_id: Option<i64>,
    /// First token of a text.
    #[serde(default)]
    pub bos_token_id: Option<i64>,
    /// Tokens that end an answer.
    #[serde(default)]
    pub eos_token_id: Option<TokenIds>,
    /// Always `chat` here.
    #[serde(default = "chat")]
    pub model_task: String,
    /// Only for embedding models.
    #[serde(default)]
    pub embedding_metadata: Option<Value>,
    /// Anything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

const fn unset() -> i64 {
    -1
}

const fn one() -> i64 {
    1
}

fn chat() -> String {
    "chat".to_owned()
}

/// Why an `mlc-chat-config.json` cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message says what the fields are")]
pub enum ChatConfigError {
    /// It cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Larger than any real one.
    #[error("{FILE_NAME} has more than {MAX_BYTES} bytes")]
    TooLarge,
    /// Not JSON of the right form.
    #[error("{FILE_NAME} cannot be decoded")]
    Decode(#[source] JsonError),
    /// A tokenizer file whose name leads out of the folder.
    #[error("{FILE_NAME} names the tokenizer file {0:?}, which is not a plain file name")]
    FileName(String),
}

impl ChatConfig {
    /// Decodes and checks the file's content.
    ///
    /// # Errors
    /// When it is too large, not of the right form, or names files outside the folder.
    pub fn parse(bytes: &[u8]) -> Result<Self, ChatConfigError> {
        if bytes.len() as u64 > MAX_BYTES {
            return Err(ChatConfigError::TooLarge);
        }
        let config: Self = json::parse(bytes).map_err(ChatConfigError::Decode)?;
        match config.tokenizer_files.iter().find(|name| !is_plain_file_name(name)) {
            Some(name) => Err(ChatConfigError::FileName(name.chars().take(120).collect())),
            None => Ok(config),
        }
    }

    /// Reads the file of a weight folder.
    ///
    /// # Errors
    /// As [`ChatConfig::parse`], and when it cannot be read.
    pub fn open(folder: &Path) -> Result<Self, ChatConfigError> {
        let path = folder.join(FILE_NAME);
        let bytes = read_bounded(&path, MAX_BYTES).map_err(|source| ChatConfigError::Read { path, source })?;
        Self::parse(&bytes)
    }

    /// The file's content as MLC writes it: JSON, indented by two.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a chat configuration has only serializable fields")
    }

    /// The template that is to be used: the one in the file, or the known one of its name; `None` where the Jinja template of
    /// the tokenizer is to be used.
    pub fn template(&self) -> Option<ConvTemplate> {
        match self.conv_template.as_ref()? {
            ConvTemplateField::Name(name) => ConvTemplate::named(name),
            ConvTemplateField::Template(template) if template.roles.is_empty() => {
                ConvTemplate::named(template.name.as_deref()?)
            }
            ConvTemplateField::Template(template) => Some((**template).clone()),
        }
    }
}

fn is_plain_file_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && name != "."
        && name != ".."
        && !name.chars().any(|c| matches!(c, '/' | '\\' | ':') || c.is_control())
}
