use super::*;
use crate::scripted::{Scripted, info};
use crate::text::{PromptOptions, Role};

/// An engine with the tiny assistant's text side whose model says `answer` after a prompt of `prompt` tokens.
fn engine(answer: &str, prompt: usize, context: Option<u32>) -> Engine {
    let chat = ChatModel::open(&knapsack_testkit::tiny_assistant(), 1024).unwrap();
    let mut tokens = chat.tokenizer.encode(answer).unwrap();
    tokens.push(1023);
    let script = move |seen: &[u32]| {
        let next = tokens[(seen.len() - prompt) % tokens.len()];
        (0..1024).map(|id| if id == next { 1.0 } else { 0.0 }).collect()
    };
    let window = context.is_none().then_some(32);
    let model = Scripted::new(info(1024, context, window, 0, 16), Box::new(script));
    Engine::new(Session::new(Box::new(model)), Arc::new(chat))
}

fn greedy() -> GenerateOptions {
    GenerateOptions::new(SamplingOptions::GREEDY)
}

fn text_of(event: Event<'_>, pieces: &mut Vec<String>) {
    if let Event::Text(text) = event {
        pieces.push(text.to_owned());
    }
}

fn run(engine: &mut Engine, prompt: &[u32], options: &GenerateOptions) -> (Generation, Vec<String>) {
    let mut pieces = Vec::new();
    let answer =
        engine.generate(prompt, options, &CancelFlag::new(), &mut |event| text_of(event, &mut pieces)).unwrap();
    assert_eq!(pieces.concat(), answer.text);
    assert!(pieces.iter().all(|piece| !piece.is_empty()));
    (answer, pieces)
}

#[test]
fn a_conversation_in_the_tiny_assistants_template() {
    let chat = ChatModel::open(&knapsack_testkit::tiny_assistant(), 1024).unwrap();
    let prompt = chat
        .prompt(&[Message::new(Role::User, "What do you get when you add 13 and 88?")], &PromptOptions::default())
        .unwrap();
    // The ids that transformers gives for this prompt, from the model's eval.json.
    let expected = [
        1020, 1022, 268, 198, 318, 329, 310, 621, 692, 310, 474, 220, 16, 18, 291, 220, 23, 23, 30, 1023, 198, 1022,
        269, 198,
    ];
    assert_eq!(prompt, expected);
    assert_eq!(chat.bos(), Some(1020));
    assert!([1021, 1023].iter().all(|id| chat.stop_tokens().contains(id)));
    assert_eq!(chat.tokenizer.decode(&prompt), "user\nWhat do you get when you add 13 and 88?\nassistant\n");
}

#[test]
fn ends_at_the_stop_token() {
    let (answer, _) = run(&mut engine("13 plus 88 is 101.", 3, Some(64)), &[1, 2, 3], &greedy());
    assert_eq!((answer.text.as_str(), answer.finish), ("13 plus 88 is 101.", FinishReason::Stop));
    assert_eq!(answer.stats.generated_tokens, answer.tokens.len());
    assert_eq!(answer.stats.decode_steps, answer.tokens.len());
    assert_eq!((answer.stats.prompt_tokens, answer.stats.reused_tokens), (3, 0));
}

#[test]
fn streams_whole_characters_only() {
    let text = "naïve 日本語 🦀!";
    let (answer, pieces) = run(&mut engine(text, 1, Some(99)), &[1], &greedy());
    assert_eq!(answer.text, text);
    assert!(answer.tokens.len() > pieces.len(), "several tokens make one of these characters");
    assert!(!pieces.concat().contains(char::REPLACEMENT_CHARACTER));
    // Cut inside the first multi-byte character: nothing of it comes out.
    let short = GenerateOptions { max_tokens: Some(answer.tokens.len() as u32 - 3), ..greedy() };
    let (cut, _) = run(&mut engine(text, 1, Some(99)), &[1], &short);
    assert_eq!(cut.finish, FinishReason::Length);
    assert!(text.starts_with(&cut.text));
}

#[test]
fn a_stop_string_is_never_shown() {
    let options = GenerateOptions { stop: vec!["88 is".into()], ..greedy() };
    let (answer, _) = run(&mut engine("13 plus 88 is 101.", 3, Some(64)), &[1, 2, 3], &options);
    assert_eq!((answer.text.as_str(), answer.finish), ("13 plus ", FinishReason::Stop));
    let options = GenerateOptions { stop: vec!["101.5".into()], ..greedy() };
    let (answer, _) = run(&mut engine("13 plus 88 is 101.", 3, Some(64)), &[1, 2, 3], &options);
    assert_eq!((answer.text.as_str(), answer.finish), ("13 plus 88 is 101.", FinishReason::Stop));
}

#[test]
fn a_stop_token_ends_the_answer_like_the_models_own() {
    let (whole, _) = run(&mut engine("13 plus 88 is 101.", 3, Some(64)), &[1, 2, 3], &greedy());
    let options = GenerateOptions { stop_tokens: vec![whole.tokens[2]], ..greedy() };
    let (cut, _) = run(&mut engine("13 plus 88 is 101.", 3, Some(64)), &[1, 2, 3], &options);
    assert_eq!((cut.tokens, cut.finish), (whole.tokens[..2].to_vec(), FinishReason::Stop));
}

#[test]
fn log_probabilities_come_with_each_token_before_its_text() {
    let options = GenerateOptions { logprobs: Some(2), ..greedy() };
    let mut seen = Vec::new();
    let mut engine = engine("13 plus 88 is 101.", 3, Some(64));
    let answer = engine
        .generate(&[1, 2, 3], &options, &CancelFlag::new(), &mut |event| match event {
            Event::Token(logprobs) => seen.push(Err(logprobs.clone())),
            Event::Thinking(text) => panic!("{text} is no thought"),
            Event::Text(text) => seen.push(Ok(text.to_owned())),
            _ => {}
        })
        .unwrap();
    assert_eq!(answer.logprobs.len(), answer.tokens.len());
    // The scripted model gives its token a logit of 1 and the 1023 others 0.
    let expected = 1.0f32 - (1023.0f32 + 1.0f32.exp()).ln();
    for (token, logprobs) in answer.tokens.iter().zip(&answer.logprobs) {
        assert!(logprobs.chosen.token == *token && (logprobs.chosen.logprob - expected).abs() < 1e-5);
        assert!(logprobs.top.len() == 2 && logprobs.top[0] == logprobs.chosen);
    }
    assert!(seen[0].is_err() && seen.iter().filter(|event| event.is_ok()).count() > 3);
}

#[test]
fn a_full_context_ends_the_answer_and_a_window_does_not() {
    let long = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen";
    let (answer, _) = run(&mut engine(long, 4, Some(10)), &[1; 4], &greedy());
    // Six more positions, and the token that the last position's logits give.
    assert_eq!((answer.tokens.len(), answer.finish), (7, FinishReason::Length));
    let error = engine(long, 4, Some(10)).generate(&[1; 11], &greedy(), &CancelFlag::new(), &mut |_| ()).unwrap_err();
    assert!(matches!(error, EngineError::PromptTooLong { tokens: 11, context: 10 }));
    let options = GenerateOptions { max_tokens: Some(200), ignore_stops: true, ..greedy() };
    let (answer, _) = run(&mut engine("a b", 1, None), &[1], &options);
    assert_eq!((answer.tokens.len(), answer.finish), (200, FinishReason::Length));
}

/// Tokenizing what no context holds would take seconds, and memory that the tokenizer keeps.
#[test]
fn prompts_are_measured_before_they_are_tokenized() {
    let mut engine = engine("Yes.", 0, Some(64));
    let most = 64 * engine.chat().tokenizer.longest_token();
    let mut ask = |bytes| {
        let messages = [Message::new(Role::User, "a b ".repeat(bytes / 4))];
        engine.answer(&messages, &greedy(), &CancelFlag::new(), &mut |_| ()).unwrap_err()
    };
    let error = ask(most + 4);
    assert!(matches!(error, EngineError::Text(TextError::LongerThanContext { context: 64, .. })), "{error}");
    let error = ask(most / 2);
    assert!(matches!(error, EngineError::PromptTooLong { context: 64, .. }), "{error}");
}

#[test]
fn cancelling_gives_what_there_is() {
    let cancel = CancelFlag::new();
    let mut engine = engine("one two three four five six", 2, Some(64));
    let mut seen = 0;
    let answer = engine
        .generate(&[1, 2], &greedy(), &cancel, &mut |_| {
            seen += 1;
            if seen == 3 {
                cancel.cancel();
            }
        })
        .unwrap();
    assert_eq!(answer.finish, FinishReason::Cancelled);
    assert!(!answer.text.is_empty() && "one two three four five six".starts_with(&answer.text));
    let answer = engine.generate(&[1, 2, 3], &greedy(), &cancel, &mut |_| ()).unwrap();
    assert_eq!((answer.text.as_str(), answer.finish), ("", FinishReason::Cancelled));
}

#[test]
fn an_answer_ends_when_the_app_goes_into_the_background() {
    let activity = crate::Activity::new();
    let Engine { session, chat } = engine("one two three four five six", 2, Some(64));
    let mut engine = Engine::new(session.with_activity(activity.clone()), chat);
    let mut seen = 0;
    let mut show = |_: Event<'_>| {
        seen += 1;
        if seen == 3 {
            activity.pause();
        }
    };
    let answer = engine.generate(&[1, 2], &greedy(), &CancelFlag::new(), &mut show).unwrap();
    assert_eq!(answer.finish, FinishReason::Backgrounded);
    assert!(!answer.text.is_empty() && "one two three four five six".starts_with(&answer.text));
    let answer = engine.generate(&[1, 2], &greedy(), &CancelFlag::new(), &mut |_| ()).unwrap();
    assert_eq!((answer.text.as_str(), answer.finish), ("", FinishReason::Backgrounded));
    activity.resume();
    let (answer, _) = run(&mut engine, &[1, 2], &greedy());
    assert_eq!((answer.text.as_str(), answer.finish), ("one two three four five six", FinishReason::Stop));
}

#[test]
fn the_next_turn_continues_the_cache() {
    let mut engine = engine("Hello", 4, Some(64));
    let (first, _) = run(&mut engine, &[1, 2, 3, 4], &greedy());
    let prompt = [&[1, 2, 3, 4][..], &first.tokens, &[1023, 9]].concat();
    let options = GenerateOptions { max_tokens: Some(1), ..greedy() };
    let (second, _) = run(&mut engine, &prompt, &options);
    assert_eq!(second.stats.reused_tokens, 4 + first.tokens.len());
}

#[test]
fn a_conversation_that_outgrows_the_context_loses_its_oldest_turns() {
    let chat = ChatModel::open(&knapsack_testkit::tiny_assistant(), 1024).unwrap();
    let mut messages = Vec::new();
    for number in 0..6 {
        messages.push(Message::new(Role::User, format!("What do you get when you add {number} and 88?")));
        messages.push(Message::new(Role::Assistant, format!("It is {}.", number + 88)));
    }
    messages.push(Message::new(Role::User, "And 13?"));
    let whole = chat.prompt(&messages, &PromptOptions::default()).unwrap().len();
    let options = GenerateOptions { max_tokens: Some(20), ..greedy() };
    let answer = |context: usize, options: &GenerateOptions| {
        engine("Yes.", 0, Some(context as u32)).answer(&messages, options, &CancelFlag::new(), &mut |_| ())
    };
    assert_eq!(answer(whole + 20, &options).unwrap().stats.dropped_messages, 0);
    let stats = answer(whole + 19, &options).unwrap().stats;
    assert_eq!(stats.dropped_messages, 2);
    assert_eq!(stats.prompt_tokens, chat.prompt(&messages[2..], &PromptOptions::default()).unwrap().len());
    let fail = GenerateOptions { context: ContextPolicy::Fail, ..options.clone() };
    assert_eq!(answer(whole, &fail).unwrap().stats.dropped_messages, 0);
    let error = answer(whole - 1, &fail).unwrap_err();
    assert!(matches!(error, EngineError::PromptTooLong { tokens, .. } if tokens == whole), "{error}");
    // Nothing helps when the last question is too long.
    let last = chat.prompt(&messages[12..], &PromptOptions::default()).unwrap().len();
    let error = answer(last - 1, &options).unwrap_err();
    assert!(matches!(error, EngineError::PromptTooLong { tokens, .. } if tokens == last), "{error}");
}

#[test]
fn logits_without_a_number_are_an_error() {
    let chat = ChatModel::open(&knapsack_testkit::tiny_assistant(), 1024).unwrap();
    let model = Scripted::new(info(1024, Some(8), None, 0, 4), Box::new(|_| vec![f32::NAN; 1024]));
    let mut engine = Engine::new(Session::new(Box::new(model)), Arc::new(chat));
    let error = engine.generate(&[1, 2], &greedy(), &CancelFlag::new(), &mut |_| ()).unwrap_err();
    assert_eq!(error.to_string(), "the model's logits at position 1 hold no usable number");
}

#[test]
fn fixtures_of_every_family_have_a_text_side() {
    for model in knapsack_testkit::fixtures() {
        let folder = knapsack_testkit::mlc_fixture(model.family, "q4f16_1");
        let chat = ChatModel::open(&folder, 768).unwrap();
        let prompt = chat.prompt(&[Message::new(Role::User, "Hi there")], &PromptOptions::default()).unwrap();
        assert!(prompt.iter().all(|&id| id < 768), "{}: {prompt:?}", model.family);
        assert!(chat.stop_tokens().iter().all(|&id| id < 768) && !chat.stop_tokens().is_empty());
        for text in ["Hello world", "  two  spaces\n\n", "naïve 日本語 🦀", "a<0x41>b"] {
            let ids = chat.tokenizer.encode(text).unwrap();
            assert_eq!(chat.tokenizer.decode(&ids), text, "{}: {ids:?}", model.family);
        }
        // Without a complete conversation template there is only the Jinja template, and these tokenizers bring none.
        let bare = ChatModel::open(&knapsack_testkit::fixture(model.family), 768).unwrap();
        let error = bare.prompt(&[Message::new(Role::User, "Hi")], &PromptOptions::default()).unwrap_err();
        assert!(error.to_string().contains("--raw"), "{error}");
    }
}

/// The tiny assistant's text side with a template that knows thoughts.
fn thinking_chat(template: &str) -> Arc<ChatModel> {
    let folder = tempfile::tempdir().unwrap();
    let tiny = knapsack_testkit::tiny_assistant();
    std::fs::copy(tiny.join("tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    std::fs::write(folder.path().join("tokenizer_config.json"), r#"{"eos_token": "<|im_end|>"}"#).unwrap();
    std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    Arc::new(ChatModel::open(folder.path(), 1024).unwrap())
}

/// A model that thinks without end, unless its thoughts are ended for it: then it says "Four." and stops.
fn thinker(chat: &Arc<ChatModel>, prompt: usize) -> Engine {
    let begin = chat.tokenizer.encode("<think>\nHm").unwrap();
    let end = chat.end_of_thinking().unwrap();
    let more = chat.tokenizer.encode(" and").unwrap()[0];
    let mut answer = chat.tokenizer.encode("Four.").unwrap();
    answer.push(1023);
    let script = move |seen: &[u32]| {
        let said = &seen[prompt..];
        let ended = said.windows(end.len()).position(|part| part == end).map(|at| at + end.len());
        let next = match ended {
            Some(at) => answer[(said.len() - at) % answer.len()],
            None => begin.get(said.len()).copied().unwrap_or(more),
        };
        (0..1024).map(|id| if id == next { 1.0 } else { 0.0 }).collect()
    };
    let model = Scripted::new(info(1024, Some(256), None, 0, 16), Box::new(script));
    Engine::new(Session::new(Box::new(model)), chat.clone())
}

const THINKS: &str = "{% for m in messages %}{{ m.content }}{% if m.reasoning_content %}[{{ m.reasoning_content }}]{% endif %}\
                      {% endfor %}{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}";

#[test]
fn thoughts_are_told_apart_and_end_with_their_budget() {
    let chat = thinking_chat(THINKS);
    for budget in [0, 1, 7, 40] {
        let mut events = Vec::new();
        let options = GenerateOptions { max_thinking_tokens: Some(budget), ..greedy() };
        let answer = thinker(&chat, 2)
            .generate(&[1, 2], &options, &CancelFlag::new(), &mut |event| match event {
                Event::Thinking(text) => events.push(Err(text.to_owned())),
                Event::Text(text) => events.push(Ok(text.to_owned())),
                _ => {}
            })
            .unwrap();
        assert_eq!((answer.text.as_str(), answer.finish), ("Four.", FinishReason::Stop), "{budget}");
        assert_eq!(
            events.iter().filter_map(|event| event.as_ref().err()).cloned().collect::<String>(),
            answer.reasoning
        );
        assert_eq!(events.iter().filter_map(|event| event.as_ref().ok()).cloned().collect::<String>(), answer.text);
        assert!(budget < 7 || answer.reasoning.starts_with("Hm and"), "{}", answer.reasoning);
        let ending = chat.end_of_thinking().unwrap().len();
        assert!(answer.stats.thinking_tokens <= budget as usize + ending + 1, "{}", answer.stats.thinking_tokens);
    }
    // Not told apart, they are text.
    let options = GenerateOptions { separate_thinking: false, max_tokens: Some(20), ..greedy() };
    let answer = thinker(&chat, 2).generate(&[1, 2], &options, &CancelFlag::new(), &mut |_| ()).unwrap();
    assert!(answer.text.starts_with("<think>\nHm and") && answer.reasoning.is_empty(), "{}", answer.text);
}

#[test]
fn thinking_is_switched_by_the_template_or_in_its_place() {
    let question = [Message::new(Role::User, "Why?")];
    let render = |template: &str, thinking: Option<bool>| {
        let options = PromptOptions { thinking, ..PromptOptions::default() };
        thinking_chat(template).render(&question, &options).map(|prompt| prompt.text)
    };
    assert_eq!(render(THINKS, None).unwrap(), "Why?");
    assert_eq!(render(THINKS, Some(true)).unwrap(), "Why?");
    assert_eq!(render(THINKS, Some(false)).unwrap(), "Why?<think></think>");
    let always = "{{ messages[0].content }}\n<think>\n{# </think> #}";
    assert_eq!(render(always, Some(false)).unwrap(), "Why?\n<think>\n\n</think>\n\n");
    let by_itself = "{{ messages[0].content }}\n{# </think> #}";
    assert_eq!(render(by_itself, Some(false)).unwrap(), "Why?\n<think>\n\n</think>\n\n");
    let never = "{{ messages[0].content }}";
    assert_eq!(render(never, Some(false)).unwrap(), "Why?");
    assert!(matches!(render(never, Some(true)), Err(TextError::NoThinking)));
}

#[test]
fn a_stop_string_that_is_a_special_token_stops() {
    let options = GenerateOptions { stop: vec!["<|im_start|>".into()], ..greedy() };
    let chat = ChatModel::open(&knapsack_testkit::tiny_assistant(), 1024).unwrap();
    let start = chat.special_token("<|im_start|>").unwrap();
    let script = move |seen: &[u32]| {
        let next = if seen.len() < 5 { 65 } else { start };
        (0..1024).map(|id| if id == next { 1.0 } else { 0.0 }).collect()
    };
    let model = Scripted::new(info(1024, Some(64), None, 0, 16), Box::new(script));
    let mut engine = Engine::new(Session::new(Box::new(model)), Arc::new(chat));
    let (answer, _) = run(&mut engine, &[1, 2], &options);
    assert_eq!((answer.tokens.len(), answer.finish), (3, FinishReason::Stop));
}
