//! The `mlc-chat-config.json` of a checkpoint.

use crate::checkpoint::{model_config, refuse_converted};
use crate::error::ConvertError;
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
}

/// The chat configuration that converting `checkpoint` would write. Reads no weights.
///
/// # Errors
/// When the folder is not a checkpoint whose configuration can be used, or the template is not known.
pub fn chat_config(
    checkpoint: &Path,
    quantization: &Quantization,
    choice: &TemplateChoice,
) -> Result<ChatConfig, ConvertError> {
    refuse_converted(checkpoint, quantization)?;
    let problem = "no config.json".to_owned();
    let not_one = ConvertError::NotACheckpoint { folder: checkpoint.to_owned(), problem };
    let hf = read_json(&checkpoint.join("config.json"))?.ok_or(not_one)?;
    let model = model_config(checkpoint, &hf)?;
    Ok(build(checkpoint, &hf, &model, quantization, choice)?.config)
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
    let mut notices = Vec::new();
    check_chat_template(folder, choice)?;
    let (template, own) = choose_template(model, &mut tokenizer, choice, &mut notices)?;
    if tokenizer.size.is_none() {
        notices.push("the checkpoint has no tokenizer.json: the model cannot be run on text".to_owned());
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
        eos_token_id: Some(settings.tokens("eos_token_id", 2)),
        model_task: "chat".to_owned(),
        embedding_metadata: None,
        model_config,
        other: settings.beyond_mlc(),
    };
    Ok(Chat { config, files: tokenizer.files, notices })
}

/// MLC's template, and the file of the Jinja template where that one is to be used: a preset is used only when it is asked for, or
/// else stands there for readers that know no Jinja.
fn choose_template(
    model: &ModelConfig,
    tokenizer: &mut Tokenizer,
    choice: &TemplateChoice,
    notices: &mut Vec<String>,
) -> Result<(Option<ConvTemplate>, Option<String>), ConvertError> {
    if let Some(preset) = choice.preset()? {
        return Ok((Some(preset), None));
    }
    if let TemplateChoice::File(path) = choice {
        tokenizer.replace_template(read_text(path)?);
    }
    let Some((_, file)) = &tokenizer.jinja else {
        notices.push(
            "no chat template: the checkpoint has none; name a preset of MLC or a file if the model is to chat"
                .to_owned(),
        );
        return Ok((None, None));
    };
    let mlc = template::detect(model.family.name, tokenizer);
    notices.push(match (choice, mlc) {
        (TemplateChoice::File(path), _) => format!("chat template: {}", path.display()),
        (_, Some(mlc)) => format!("chat template: the model's own, of {file}; for MLC's apps `{mlc}`"),
        (_, None) => format!("chat template: the model's own, of {file}"),
    });
    Ok((mlc.and_then(ConvTemplate::named), Some((*file).to_owned())))
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
