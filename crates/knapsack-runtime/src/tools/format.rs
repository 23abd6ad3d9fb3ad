/// How a family of models writes calls of tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ToolFormat {
    /// `<tool_call>\n{"name": …, "arguments": {…}}\n</tool_call>` for each call: Hermes, Qwen 2.5 and 3, and many that learned from
    /// them.
    Hermes,
    /// `{"name": …, "parameters": {…}}` as the whole answer: Llama 3.1, 3.2 and 3.3.
    Llama,
    /// `[TOOL_CALLS] [{"name": …, "arguments": {…}}, …]`: Mistral's third to seventh tokenizer.
    Mistral,
    /// `[TOOL_CALLS]name[ARGS]{…}` for each call: Mistral's later tokenizers.
    MistralArgs,
    /// `<|tool_call|>[{"name": …, "arguments": {…}}, …]<|/tool_call|>`: Phi-4-mini.
    Phi,
    /// `<|tool_call_start|>[name(key="value", …), …]<|tool_call_end|>`: LFM2.
    Lfm2,
    /// `<start_function_call>call:name{key:<escape>value<escape>, …}<end_function_call>` for each call: Gemma's function models.
    Gemma,
    /// `<|tool_call>call:name{key:<|"|>value<|"|>, …}<tool_call|>` for each call: Gemma 4.
    Gemma4,
    /// `<tool_call>\n<function=name>\n<parameter=key>\nvalue\n</parameter>\n…</function>\n</tool_call>` for each call: Qwen 3.5.
    Qwen3_5,
}

/// A format, taken apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Begins a call, or a list of them. Empty: the answer itself is the call.
    pub(super) open: &'static str,
    /// Between that and the call.
    pub(super) after_open: &'static str,
    /// Ends it; may be empty.
    pub(super) close: &'static str,
    /// Between the call and that.
    pub(super) before_close: &'static str,
    /// Whether one pair of marks holds a list of all calls.
    pub(super) list: bool,
    pub(super) item: Item,
}

/// How one call is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// A JSON object with `name` and this key.
    Json(&'static str),
    /// The name, this mark, and the arguments as JSON.
    Named(&'static str),
    /// `name(key=value, …)` in Python's notation.
    Python,
    /// `call:name{key:value, …}`, text between two of this mark.
    Call(&'static str),
    /// `<function=name>` and `<parameter=key>` with their ends, values on lines of their own: text as it is, the rest as JSON.
    Tagged,
}

impl ToolFormat {
    /// The format that a chat template writes earlier calls in, told by its marks.
    pub(crate) fn detect(template: &str) -> Option<Self> {
        let signs = [
            ("<|tool_call_start|>", ToolFormat::Lfm2),
            ("<|tool_list_start|>", ToolFormat::Lfm2),
            ("<start_function_call>", ToolFormat::Gemma),
            ("<|tool_call>", ToolFormat::Gemma4),
            ("<function=", ToolFormat::Qwen3_5),
            ("<tool_call>", ToolFormat::Hermes),
            ("[ARGS]", ToolFormat::MistralArgs),
            ("[TOOL_CALLS]", ToolFormat::Mistral),
            ("<|tool|>", ToolFormat::Phi),
            ("<|python_tag|>", ToolFormat::Llama),
            ("\"parameters\"", ToolFormat::Llama),
        ];
        signs.into_iter().find(|(sign, _)| template.contains(sign)).map(|(_, format)| format)
    }

    pub(super) const fn shape(self) -> Shape {
        let plain =
            Shape { open: "", after_open: "", close: "", before_close: "", list: false, item: Item::Json("arguments") };
        match self {
            ToolFormat::Hermes => {
                Shape { open: "<tool_call>", after_open: "\n", close: "</tool_call>", before_close: "\n", ..plain }
            }
            ToolFormat::Llama => Shape { item: Item::Json("parameters"), ..plain },
            ToolFormat::Mistral => Shape { open: "[TOOL_CALLS]", list: true, ..plain },
            ToolFormat::MistralArgs => Shape { open: "[TOOL_CALLS]", item: Item::Named("[ARGS]"), ..plain },
            ToolFormat::Phi => Shape { open: "<|tool_call|>", close: "<|/tool_call|>", list: true, ..plain },
            ToolFormat::Lfm2 => Shape {
                open: "<|tool_call_start|>",
                close: "<|tool_call_end|>",
                list: true,
                item: Item::Python,
                ..plain
            },
            ToolFormat::Gemma => Shape {
                open: "<start_function_call>",
                close: "<end_function_call>",
                item: Item::Call("<escape>"),
                ..plain
            },
            ToolFormat::Gemma4 => {
                Shape { open: "<|tool_call>", close: "<tool_call|>", item: Item::Call("<|\"|>"), ..plain }
            }
            ToolFormat::Qwen3_5 => Shape {
                open: "<tool_call>",
                after_open: "\n",
                close: "</tool_call>",
                before_close: "\n",
                item: Item::Tagged,
                ..plain
            },
        }
    }

    /// The marks of the format that may be special tokens: they show in no text, and a call cannot be read without them.
    pub(crate) fn marks(self) -> impl Iterator<Item = &'static str> {
        let shape = self.shape();
        let inner = match shape.item {
            Item::Named(mark) | Item::Call(mark) => mark,
            Item::Json(_) | Item::Python | Item::Tagged => "",
        };
        [shape.open, shape.close, inner].into_iter().filter(|mark| !mark.is_empty())
    }

    /// An id for a call. Mistral's templates take nine letters and digits and nothing else.
    pub(crate) fn id(self, number: u64) -> String {
        match self {
            ToolFormat::Mistral | ToolFormat::MistralArgs => format!("{:09x}", number & 0xf_ffff_ffff),
            _ => format!("call_{number:016x}"),
        }
    }
}
