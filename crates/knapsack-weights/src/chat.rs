//! The `mlc-chat-config.json` of a checkpoint.

use crate::checkpoint::{model_config, refuse_converted};
use crate::error::ConvertError;
use crate::fit::{self, Equal};
use crate::io::read_json;
use crate::jinja::{check_chat_template, read_text};
use crate::template::{self, TemplateChoice};
use crate::tokenizer::{OutputFile, Tokenizer};
use knapsack_artifact::chat_config::{ChatConfig, ConvTemplateField, TokenIds};
use knapsack_artifact::conv_template::ConvTemplate;
use knapsack_models::ModelConfig;
use knapsack_tensor::Quantization;
use serde_json::{Map, Value};
use std::path::Path;

/// Everything beside the weights.
pub(crate) struct Chat {
    pub(crate) config: ChatConfig,
    /// Tokenizer files.
    pub(crate) files: Vec<OutputFile>,
    pub(crate) notices: Vec<String>,
    pub(crate) warnings: Vec<ChatWarning>,
}

/// What a model's text side lacks. It can be packaged all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChatWarning {
    /// No `tokenizer.json`.
    #[error("the checkpoint has no tokenizer.json, without which Knapsack's runtime reads and writes no text")]
    NoTokenizer,
    /// No chat template.
    #[error("the checkpoint has no chat template: name a preset of MLC or a file, if the model is to chat")]
    NoTemplate,
    /// A Jinja template that no conversation template of MLC can say.
    #[error(
        "MLC's apps will find no conversation template: the chat template cannot be put into their form. Knapsack's runtime uses it \
         as it is"
    )]
    NoConversationTemplate,
}

/// What converting `checkpoint` would say of its text side. Reads no weights.
///
/// # Errors
/// When the folder is not a checkpoint whose configuration can be used, or the template is not known.
pub fn check_chat(
    checkpoint: &Path,
    quantization: &Quantization,
    choice: &TemplateChoice,
) -> Result<Vec<ChatWarning>, ConvertError> {
    refuse_converted(checkpoint, quantization)?;
    let problem = "no config.json".to_owned();
    let not_one = ConvertError::NotACheckpoint { folder: checkpoint.to_owned(), problem };
    let hf = read_json(&checkpoint.join("config.json"))?.ok_or(not_one)?;
    let model = model_config(checkpoint, &hf)?;
    Ok(build(checkpoint, &hf, &model, quantization, choice)?.warnings)
}

pub(crate) fn build(
    folder: &Path,
    hf: &Value,
    model: &ModelConfig,
    quantization: &Quantization,
    choice: &TemplateChoice,
) -> Result<Chat, ConvertError> {
    let mut tokenizer = Tokenizer::read(folder)?;
    let generation = read_json(&folder.join("generation_config.json"))?.unwrap_or(Value::Null);
    let settings = Settings { places: [&generation, hf] };
    check_chat_template(folder, choice)?;
    let stops = settings.tokens("eos_token_id", 2);
    let Template { mlc: template, own, notices, mut warnings } =
        choose_template(folder, model, &mut tokenizer, choice, stops.ids())?;
    if tokenizer.size.is_none() {
        warnings.push(ChatWarning::NoTokenizer);
    }
    let model_config = model.mlc_model_config(hf);
    let size = |key: &str| model_config.get(key).and_then(Value::as_i64).unwrap_or(-1);
    let config = ChatConfig {
        version: Some("0.1.0".to_owned()),
        model_type: model.family.name.to_owned(),
        quantization: quantization.name.to_owned(),
        vocab_size: i64::from(model.vocab),
        context_window_size: size("context_window_size"),
        sliding_window_size: size("sliding_window_size"),
        prefill_chunk_size: size("prefill_chunk_size"),
        attention_sink_size: size("attention_sink_size"),
        tensor_parallel_shards: 1,
        pipeline_parallel_stages: 1,
        active_vocab_size: Some(tokenizer.size.map_or(i64::from(model.vocab), |size| size as i64)),
        temperature: Some(settings.number("temperature", 1.0)),
        presence_penalty: Some(settings.number("presence_penalty", 0.0)),
        frequency_penalty: Some(settings.number("frequency_penalty", 0.0)),
        repetition_penalty: Some(settings.number("repetition_penalty", 1.0)),
        top_p: Some(settings.number("top_p", 1.0)),
        tokenizer_files: tokenizer.files.iter().map(|file| file.name.clone()).collect(),
        tokenizer_info: tokenizer.info,
        conv_template: template.map(|template| ConvTemplateField::Template(Box::new(template))),
        chat_template: own,
        pad_token_id: Some(settings.token("pad_token_id", 0)),
        bos_token_id: Some(settings.token("bos_token_id", 1)),
        eos_token_id: Some(stops),
        model_task: "chat".to_owned(),
        embedding_metadata: None,
        model_config,
        other: settings.beyond_mlc(),
    };
    Ok(Chat { config, files: tokenizer.files, notices, warnings })
}

/// How a model talks.
#[derive(Default)]
struct Template {
    /// In MLC's form.
    mlc: Option<ConvTemplate>,
    /// The file of the Jinja template, where that one is to be used.
    own: Option<String>,
    notices: Vec<String>,
    warnings: Vec<ChatWarning>,
}

/// The model's own template and, for readers that know no Jinja, the conversation template that says the same, or else MLC's preset
/// for such models; or a preset alone, when it is asked for.
fn choose_template(
    folder: &Path,
    model: &ModelConfig,
    tokenizer: &mut Tokenizer,
    choice: &TemplateChoice,
    stops: &[u32],
) -> Result<Template, ConvertError> {
    if let Some(preset) = choice.preset()? {
        return Ok(Template { mlc: Some(preset), ..Template::default() });
    }
    if let TemplateChoice::File(path) = choice {
        tokenizer.replace_template(read_text(path)?);
    }
    let Some((_, file)) = &tokenizer.jinja else {
        return Ok(Template { warnings: vec![ChatWarning::NoTemplate], ..Template::default() });
    };
    let settings = read_json(&folder.join("tokenizer_config.json"))?.unwrap_or(Value::Null);
    let preset = template::detect(model.family.name, tokenizer).and_then(ConvTemplate::named);
    let preset = preset.map(|preset| (fit::compare(&preset, tokenizer, &settings), preset));
    let derived = fit::fit(tokenizer, &settings, stops).map(|(derived, equal)| (equal, derived));
    // Of two that say as much, the one that MLC knows.
    let better = |derived: &Equal| *derived == Equal::Everywhere && preset.as_ref().is_none_or(|(of, _)| of < derived);
    let (equal, mlc) = match derived {
        Some((equal, derived)) if preset.is_none() || better(&equal) => (equal, Some(derived)),
        _ => preset.map_or((Equal::Nowhere, None), |(equal, preset)| (equal, Some(preset))),
    };
    let source = match choice {
        TemplateChoice::File(path) => path.display().to_string(),
        _ => format!("the model's own, of {file}"),
    };
    let mut template = Template { own: Some((*file).to_owned()), ..Template::default() };
    match &mlc {
        Some(mlc) => {
            let which = match mlc.name.as_deref() {
                Some(name) if name != fit::NAME => format!("`{name}`"),
                _ => "a conversation template made from it".to_owned(),
            };
            let prompts = match equal {
                Equal::Everywhere => "which gives the same prompts",
                Equal::WithoutSystem => "which gives the same prompts where no system message is given",
                Equal::Nowhere => "which gives other prompts",
            };
            let spaces = match equal == Equal::Nowhere || fit::keeps_spaces(mlc, tokenizer, &settings) {
                true => "",
                false => "; white space around messages, which the model's own does not keep, stays there",
            };
            template.notices.push(format!("chat template: {source}; for MLC's apps {which}, {prompts}{spaces}"));
        }
        None => {
            template.notices.push(format!("chat template: {source}"));
            template.warnings.push(ChatWarning::NoConversationTemplate);
        }
    }
    Ok(Template { mlc, ..template })
}

/// Values of `generation_config.json`, or else of `config.json`; null counts as absent.
struct Settings<'a> {
    places: [&'a Value; 2],
}

impl Settings<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.places.iter().filter_map(|place| place.get(key)).find(|value| !value.is_null())
    }

    fn number(&self, key: &str, default: f64) -> f64 {
        self.get(key).and_then(Value::as_f64).unwrap_or(default)
    }

    /// What the checkpoint recommends and MLC has no key for: without these its answers would be drawn from another distribution
    /// than its author chose.
    fn beyond_mlc(&self) -> Map<String, Value> {
        ["top_k", "min_p"].into_iter().filter_map(|key| Some((key.to_owned(), self.get(key)?.clone()))).collect()
    }

    fn token(&self, key: &str, default: i64) -> i64 {
        match self.get(key) {
            Some(Value::Array(list)) => list.first().and_then(Value::as_i64).unwrap_or(default),
            value => value.and_then(Value::as_i64).unwrap_or(default),
        }
    }

    fn tokens(&self, key: &str, default: u32) -> TokenIds {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        match self.get(key) {
            Some(Value::Array(list)) => TokenIds::Many(list.iter().filter_map(id).collect()),
            value => TokenIds::One(value.and_then(id).unwrap_or(default)),
        }
    }
}
