//! MLC's conversation templates: how a chat becomes a prompt, as strings and token ids.
//!
//! A prompt is: the tokens `system_prefix_token_ids`, then `system_template` with `{system_message}` put in, then for each message
//! its role, `role_content_sep`, its content through the role's template, and a separator of `seps` (the second, where there
//! are two, after the assistant's); at the end the assistant's role and `role_empty_sep`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A conversation template as `mlc-chat-config.json` holds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConvTemplate {
    /// Its name in MLC.
    #[serde(default)]
    pub name: Option<String>,
    /// The system prompt, with `{system_message}` where the message goes.
    #[serde(default = "system_placeholder")]
    pub system_template: String,
    /// The system message when the user gives none.
    #[serde(default)]
    pub system_message: String,
    /// Tokens at the very beginning.
    #[serde(default)]
    pub system_prefix_token_ids: Option<Vec<u32>>,
    /// Whether the first user message gets its role and separator when there is a system message (not so for `[INST]`).
    #[serde(default = "yes")]
    pub add_role_after_system_message: bool,
    /// What is written for `user`, `assistant` and `tool`.
    #[serde(default)]
    pub roles: BTreeMap<String, String>,
    /// The content of a message by role, with `{user_message}`, `{assistant_message}`, `{tool_message}` or `{function_string}`.
    #[serde(default)]
    pub role_templates: BTreeMap<String, String>,
    /// Messages before the conversation.
    #[serde(default)]
    pub messages: Vec<Value>,
    /// After each message: one for all, or the user's and the assistant's.
    #[serde(default)]
    pub seps: Vec<String>,
    /// Between role and content.
    #[serde(default)]
    pub role_content_sep: String,
    /// After the role whose content the model is to write.
    #[serde(default)]
    pub role_empty_sep: String,
    /// Strings that end an answer.
    #[serde(default)]
    pub stop_str: Vec<String>,
    /// Tokens that end an answer.
    #[serde(default)]
    pub stop_token_ids: Vec<u32>,
    /// Whether `<think>…</think>` is removed from answers before the last user message.
    #[serde(default)]
    pub strip_reasoning_in_history: bool,
    /// Functions that the model may call, as text.
    #[serde(default)]
    pub function_string: String,
    /// Whether the answer is to be a function call.
    #[serde(default)]
    pub use_function_calling: bool,
    /// Anything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

fn system_placeholder() -> String {
    "{system_message}".to_owned()
}

const fn yes() -> bool {
    true
}

/// What differs between templates; the rest is the same for all.
struct Preset {
    name: &'static str,
    system_template: &'static str,
    system_message: &'static str,
    prefix: &'static [u32],
    roles: &'static [(&'static str, &'static str)],
    seps: &'static [&'static str],
    role_content_sep: &'static str,
    role_empty_sep: &'static str,
    stop_str: &'static [&'static str],
    stop_token_ids: &'static [u32],
}

const LLAMA3: Preset = Preset {
    name: "llama-3",
    system_template: "<|start_header_id|>system<|end_header_id|>\n\n{system_message}<|eot_id|>",
    system_message: "You are a helpful, respectful and honest assistant.",
    prefix: &[128000],
    roles: &[("user", "<|start_header_id|>user"), ("assistant", "<|start_header_id|>assistant")],
    seps: &["<|eot_id|>"],
    role_content_sep: "<|end_header_id|>\n\n",
    role_empty_sep: "<|end_header_id|>\n\n",
    stop_str: &["<|end_of_text|>", "<|eot_id|>"],
    stop_token_ids: &[128001, 128009],
};

const CHATML: Preset = Preset {
    name: "chatml",
    system_template: "<|im_start|>system\n{system_message}<|im_end|>\n",
    system_message: "A conversation between a user and an LLM-based AI assistant. The assistant gives helpful and honest answers.",
    prefix: &[],
    roles: &[("user", "<|im_start|>user"), ("assistant", "<|im_start|>assistant")],
    seps: &["<|im_end|>\n"],
    role_content_sep: "\n",
    role_empty_sep: "\n",
    stop_str: &["<|im_end|>"],
    stop_token_ids: &[2],
};

const QWEN2: Preset = Preset {
    name: "qwen2",
    system_message: "You are a helpful assistant.",
    stop_str: &["<|endoftext|>", "<|im_end|>"],
    stop_token_ids: &[151643, 151645],
    ..CHATML
};

const GEMMA: Preset = Preset {
    name: "gemma_instruction",
    system_template: "{system_message}",
    system_message: "",
    prefix: &[2],
    roles: &[("user", "<start_of_turn>user"), ("assistant", "<start_of_turn>model")],
    seps: &["<end_of_turn>\n"],
    role_content_sep: "\n",
    role_empty_sep: "\n",
    stop_str: &["<end_of_turn>"],
    stop_token_ids: &[1, 107],
};

const STABLELM2: Preset = Preset {
    name: "stablelm-2",
    system_template: "{system_message}",
    system_message: "",
    prefix: &[],
    roles: &[("user", "<|user|>"), ("assistant", "<|assistant|>")],
    seps: &["<|endoftext|>", "<|endoftext|>"],
    role_content_sep: "\n",
    role_empty_sep: "\n",
    stop_str: &["<|endoftext|>"],
    stop_token_ids: &[100257],
};

const DEEPSEEK_R1: Preset = Preset {
    name: "deepseek_r1_qwen",
    system_template: "<｜begin▁of▁sentence｜>{system_message}",
    system_message: "You are Deepseek-R1, an AI assistant created exclusively by the Chinese Company DeepSeek. You'll provide helpful, harmless, and detailed responses to all user inquiries.",
    prefix: &[],
    roles: &[("user", "<｜User｜>"), ("assistant", "<｜Assistant｜>")],
    seps: &["", "<｜end▁of▁sentence｜>"],
    role_content_sep: "",
    role_empty_sep: "",
    stop_str: &[],
    stop_token_ids: &[151643],
};

const LM: Preset = Preset {
    name: "LM",
    system_template: "{system_message}",
    system_message: "",
    prefix: &[1],
    roles: &[("user", ""), ("assistant", "")],
    seps: &[""],
    role_content_sep: "",
    role_empty_sep: "",
    stop_str: &[],
    stop_token_ids: &[2],
};

/// MLC's templates for the supported families. The strings and ids are facts of the format.
const PRESETS: &[Preset] = &[
    LLAMA3,
    Preset {
        name: "llama-3_1",
        roles: &[
            ("user", "<|start_header_id|>user"),
            ("assistant", "<|start_header_id|>assistant"),
            ("tool", "<|start_header_id|>ipython"),
        ],
        stop_str: &[],
        stop_token_ids: &[128001, 128008, 128009],
        ..LLAMA3
    },
    Preset {
        name: "llama-2",
        system_template: "[INST] <<SYS>>\n{system_message}\n<</SYS>>\n\n",
        prefix: &[1],
        roles: &[("user", "<s>[INST]"), ("assistant", "[/INST]"), ("tool", "[INST]")],
        seps: &[" ", " </s>"],
        role_content_sep: " ",
        role_empty_sep: " ",
        stop_str: &["[INST]"],
        stop_token_ids: &[2],
        ..LLAMA3
    },
    Preset {
        name: "tinyllama_v1_0",
        system_template: "<|system|>\n{system_message}</s>",
        system_message: "You are a helpful chatbot.",
        roles: &[("user", "<|user|>"), ("assistant", "<|assistant|>")],
        seps: &["</s>"],
        stop_str: &["</s>"],
        ..CHATML
    },
    Preset {
        name: "mistral_default",
        system_template: "[INST] {system_message}",
        system_message: "Always assist with care, respect, and truth. Respond with utmost utility yet securely. Avoid harmful, unethical, prejudiced, or negative content. Ensure replies promote fairness and positivity.",
        prefix: &[1],
        roles: &[("user", "[INST]"), ("assistant", "[/INST]"), ("tool", "[INST]")],
        seps: &[" "],
        role_content_sep: " ",
        role_empty_sep: "",
        stop_str: &["</s>"],
        stop_token_ids: &[2],
    },
    CHATML,
    Preset { name: "chatml_nosystem", system_template: "{system_message}", system_message: "", ..CHATML },
    QWEN2,
    Preset { name: "qwen3", ..QWEN2 },
    GEMMA,
    Preset { name: "gemma3_instruction", stop_token_ids: &[1, 106], ..GEMMA },
    Preset {
        name: "phi-2",
        roles: &[("user", "Instruct"), ("assistant", "Output")],
        seps: &["\n"],
        role_content_sep: ": ",
        role_empty_sep: ":",
        stop_str: &["<|endoftext|>"],
        stop_token_ids: &[50256],
        ..STABLELM2
    },
    Preset {
        name: "phi-3",
        system_template: "<|system|>\n{system_message}",
        system_message: "You are a helpful digital assistant. Please provide safe, ethical and accurate information to the user.",
        prefix: &[1],
        seps: &["<|end|>\n"],
        stop_token_ids: &[2, 32000, 32001, 32007],
        ..STABLELM2
    },
    STABLELM2,
    Preset { name: "stablelm-3b", stop_token_ids: &[0], ..STABLELM2 },
    Preset {
        name: "redpajama_chat",
        roles: &[("user", "<human>"), ("assistant", "<bot>")],
        seps: &["\n"],
        role_content_sep: ": ",
        role_empty_sep: ":",
        stop_str: &["<human>"],
        stop_token_ids: &[0],
        ..STABLELM2
    },
    DEEPSEEK_R1,
    Preset { name: "deepseek_r1_llama", stop_token_ids: &[128001], ..DEEPSEEK_R1 },
    LM,
];

impl ConvTemplate {
    /// The names of the templates that are known.
    pub fn names() -> impl Iterator<Item = &'static str> {
        PRESETS.iter().map(|preset| preset.name)
    }

    /// MLC's template of this name.
    pub fn named(name: &str) -> Option<Self> {
        let preset = PRESETS.iter().find(|preset| preset.name == name)?;
        let strings = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
        let map =
            |pairs: &[(&str, &str)]| pairs.iter().map(|&(role, text)| (role.to_owned(), text.to_owned())).collect();
        Some(ConvTemplate {
            name: Some(name.to_owned()),
            system_template: preset.system_template.to_owned(),
            system_message: preset.system_message.to_owned(),
            system_prefix_token_ids: (!preset.prefix.is_empty()).then(|| preset.prefix.to_vec()),
            add_role_after_system_message: !preset.system_template.starts_with("[INST]"),
            roles: map(preset.roles),
            role_templates: map(&[
                ("user", "{user_message}"),
                ("assistant", "{assistant_message}"),
                ("tool", "{tool_message}"),
            ]),
            messages: Vec::new(),
            seps: strings(preset.seps),
            role_content_sep: preset.role_content_sep.to_owned(),
            role_empty_sep: preset.role_empty_sep.to_owned(),
            stop_str: strings(preset.stop_str),
            stop_token_ids: preset.stop_token_ids.to_vec(),
            strip_reasoning_in_history: preset.name == "qwen3",
            function_string: String::new(),
            use_function_calling: false,
            other: Map::new(),
        })
    }
}
