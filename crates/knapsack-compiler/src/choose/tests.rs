use super::*;
use knapsack_models::ModelConfig;
use knapsack_tensor::Quantization;

fn llama() -> (ModelConfig, Quantization) {
    model("Llama-3.2-3B-Instruct-q4f16_1")
}

fn model(name: &str) -> (ModelConfig, Quantization) {
    let path = knapsack_testkit::catalogue(name).join("mlc-chat-config.json");
    let chat: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    (ModelConfig::from_mlc(&chat).unwrap(), chat["quantization"].as_str().unwrap().parse().unwrap())
}

fn chosen((config, quantization): &(ModelConfig, Quantization), overrides: GivenSizes, budget: Option<u64>) -> Chosen {
    let own = Own { windows: config.own_windows(), trained: config.trained_positions, beside: 0 };
    choose(&own, &overrides, budget, |windows| config.graph(quantization, windows)).unwrap()
}

fn text(chosen: &Chosen) -> Vec<String> {
    chosen.notices.iter().map(Notice::to_string).collect()
}

#[test]
fn without_budget_or_overrides_sizes_are_moderate() {
    let chosen = chosen(&llama(), GivenSizes::default(), None);
    assert_eq!((chosen.windows.context, chosen.windows.chunk), (4096, 512));
    assert_eq!(
        text(&chosen),
        [
            "context_window_size = 4096, the default (the model's own is 131072)",
            "prefill_chunk_size = 512, the default (the model's own is 8192)"
        ]
    );
}

/// A budget copied from a larger model is not filled with context.
#[test]
fn a_budget_makes_nothing_larger() {
    let copied = chosen(&llama(), GivenSizes::default(), Some(u64::MAX));
    assert_eq!(copied, chosen(&llama(), GivenSizes::default(), None));
}

/// Everything that is left out is the model's own.
fn all_own() -> GivenSizes {
    GivenSizes { own: OwnSizes::ALL, ..GivenSizes::default() }
}

#[test]
fn a_cache_larger_than_the_weights_is_told() {
    let large = chosen(&llama(), all_own(), None);
    let MemoryPlan { weights, kv_cache, .. } = large.memory;
    assert!(kv_cache > weights && large.notices.contains(&Notice::LargeCache { kv_cache, weights }));
    assert!(
        chosen(&llama(), GivenSizes::default(), None).notices.iter().all(|n| !matches!(n, Notice::LargeCache { .. }))
    );
}

#[test]
fn what_is_given_is_kept_even_over_budget() {
    let overrides =
        GivenSizes { context_window_size: Some(2048), prefill_chunk_size: Some(128), ..GivenSizes::default() };
    let chosen = chosen(&llama(), overrides, Some(2_000_000_000));
    assert_eq!((chosen.windows.context, chosen.windows.chunk), (2048, 128));
    assert!(chosen.notices.is_empty());
    let over = chosen.over_budget.unwrap();
    assert!(over.to_string().contains("more than the budget of 2000000000; most of it is weights"), "{over}");
}

#[test]
fn the_chunk_goes_first() {
    let (full, _) = (chosen(&llama(), all_own(), Some(u64::MAX)), ());
    assert_eq!((full.windows.context, full.windows.chunk), (131_072, 8192));
    assert!(text(&full).iter().take(2).all(|notice| notice.ends_with("the model's own")));
    let slightly_less = chosen(&llama(), all_own(), Some(full.memory.total() - 1));
    assert_eq!(slightly_less.windows.context, 131_072);
    assert_eq!(slightly_less.windows.chunk, 8192 - CHUNK_STEP);
    assert!(slightly_less.over_budget.is_none());
    let (value, budget) = (slightly_less.windows.chunk, full.memory.total() - 1);
    let reduced = format!("prefill_chunk_size = {value}, reduced from the model's own 8192 to fit {budget} bytes");
    assert!(text(&slightly_less).contains(&reduced), "{:?}", text(&slightly_less));
}

/// The result fits, and one step more would not.
#[test]
fn the_context_is_the_largest_that_fits() {
    let budget = 3_000_000_000;
    let fits = chosen(&llama(), all_own(), Some(budget));
    assert_eq!(fits.windows.chunk, MIN_CHUNK);
    assert!(fits.windows.context.is_multiple_of(CONTEXT_STEP) && fits.memory.total() <= budget);
    let next = GivenSizes {
        context_window_size: Some(fits.windows.context + CONTEXT_STEP),
        prefill_chunk_size: Some(MIN_CHUNK),
        ..GivenSizes::default()
    };
    assert!(chosen(&llama(), next, Some(budget)).over_budget.is_some());
}

#[test]
fn nothing_fits_a_budget_below_the_weights() {
    let chosen = chosen(&llama(), GivenSizes::default(), Some(1_000_000_000));
    assert_eq!((chosen.windows.context, chosen.windows.chunk), (MIN_CONTEXT, MIN_CHUNK));
    assert!(chosen.over_budget.is_some());
    // What does not fit is not said to be reduced to fit.
    let told = text(&chosen);
    assert!(told.iter().all(|notice| notice.ends_with("and still it does not fit 1000000000 bytes")), "{told:?}");
    assert_eq!(told.len(), 2);
}

#[test]
fn a_sliding_window_counts_in_place_of_the_context() {
    let overrides =
        GivenSizes { sliding_window_size: Some(768), prefill_chunk_size: Some(256), ..GivenSizes::default() };
    let kept = chosen(&model("Mistral-7B-Instruct-v0.3-q4f16_1"), overrides, None);
    assert_eq!((kept.windows.sliding, kept.windows.sinks, kept.windows.chunk), (Some(768), 4, 256));
    assert_eq!(text(&kept), ["attention_sink_size = 4, the model's own"]);
    // 32 layers x 2 x 8 heads x 128 elements x 2 bytes for each of 4 + 768 + 255 positions.
    assert_eq!(kept.memory.kv_cache, 131_072 * (4 + 768 + 255));
}

#[test]
fn contradictions_are_refused_all_at_once() {
    let (config, quantization) = llama();
    let own = Own { windows: config.own_windows(), trained: None, beside: 0 };
    let overrides = GivenSizes {
        sliding_window_size: Some(64),
        prefill_chunk_size: Some(128),
        attention_sink_size: Some(64),
        ..GivenSizes::default()
    };
    let error = choose(&own, &overrides, None, |windows| config.graph(&quantization, windows)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "prefill_chunk_size 128 is larger than sliding_window_size 64\nattention_sink_size 64 leaves nothing of \
         sliding_window_size 64"
    );
}

/// The entries of MLCChat's manifest for Android, with its budgets. All fit but Mistral-7B's, whose budget does not even hold its
/// weights and a window of 768 positions.
#[test]
fn mlc_chat_s_manifest() {
    let chunk = |chunk| GivenSizes { prefill_chunk_size: Some(chunk), ..GivenSizes::default() };
    let both = GivenSizes { context_window_size: Some(2048), ..chunk(128) };
    let sliding = GivenSizes { sliding_window_size: Some(768), ..chunk(256) };
    for (name, overrides, budget, context) in [
        ("Phi-3.5-mini-instruct-q4f16_1", chunk(128), 4_250_586_449, Some(4096)),
        ("Qwen3-0.6B-q0f16", both, 3_000_000_000, Some(2048)),
        ("Qwen3-1.7B-q4f16_1", both, 3_000_000_000, Some(2048)),
        ("gemma-2-2b-it-q4f16_1", GivenSizes::default(), 3_000_000_000, Some(4096)),
        ("Llama-3.2-3B-Instruct-q4f16_1", GivenSizes::default(), 4_679_979_417, Some(4096)),
        ("Llama-3.2-3B-Instruct-q4f16_1", all_own(), 4_679_979_417, Some(24_832)),
        ("Mistral-7B-Instruct-v0.3-q4f16_1", sliding, 4_115_131_883, None),
    ] {
        let chosen = chosen(&model(name), overrides, Some(budget));
        assert_eq!(chosen.over_budget.is_none(), context.is_some(), "{name}");
        assert_eq!(chosen.over_budget.is_none(), chosen.memory.total() <= budget, "{name}");
        if let Some(context) = context {
            assert_eq!(chosen.windows.context, context, "{name}");
        }
    }
}

fn fitted((config, quantization): &(ModelConfig, Quantization), fixed: Fixed, budget: u64) -> Chosen {
    let own = Own { windows: config.own_windows(), trained: config.trained_positions, beside: 0 };
    fit(&own, &fixed, budget, |windows| config.graph(quantization, windows)).unwrap()
}

/// The context is as [`choose`] takes it, but the chunk uses what a step of the context leaves: one step more of either does not fit.
#[test]
fn fitting_leaves_nothing_over() {
    let model = llama();
    let memory = |context, chunk| {
        let sizes =
            GivenSizes { context_window_size: Some(context), prefill_chunk_size: Some(chunk), ..GivenSizes::default() };
        chosen(&model, sizes, None).memory.total()
    };
    let mut larger_chunks = 0;
    for budget in (1_900_000_000..2_300_000_000).step_by(25_000_000) {
        let fits = fitted(&model, Fixed::default(), budget);
        assert!(fits.over_budget.is_none() && fits.memory.total() <= budget);
        let Windows { context, chunk, .. } = fits.windows;
        assert_eq!(context, chosen(&model, all_own(), Some(budget)).windows.context);
        assert!(memory(context + CONTEXT_STEP, MIN_CHUNK) > budget, "{budget}: {context}");
        assert!(chunk == context || memory(context, chunk + CHUNK_STEP) > budget, "{budget}: {chunk}");
        larger_chunks += u32::from(chunk > MIN_CHUNK);
    }
    assert!(larger_chunks > 0);
    let nothing = fitted(&model, Fixed::default(), 1_000_000_000).over_budget.unwrap();
    assert_eq!((nothing.windows.context, nothing.windows.chunk), (MIN_CONTEXT, MIN_CHUNK));
}

#[test]
fn fitting_keeps_to_what_the_model_is() {
    let roomy = fitted(&llama(), Fixed::default(), u64::MAX).windows;
    assert_eq!((roomy.context, roomy.sliding), (131_072, None));
    // Nothing scales the rotary embedding of this one beyond what it was trained for.
    let (config, quantization) = llama();
    let own = Own { windows: config.own_windows(), trained: Some(3000), beside: 0 };
    let bounded = fit(&own, &Fixed::default(), u64::MAX, |windows| config.graph(&quantization, windows)).unwrap();
    assert_eq!(bounded.windows.context, 3000);
    // A window that the manifest gives is fitted in place of the context.
    let mistral = model("Mistral-7B-Instruct-v0.3-q4f16_1");
    let window = Fixed { sliding_window_size: Some(4096), attention_sink_size: Some(2) };
    let fits = fitted(&mistral, window, 4_236_534_784).windows;
    assert!(matches!(fits.sliding, Some(768..4096)), "{fits:?}");
    assert_eq!(fits.sinks, 2);
    assert_eq!(fitted(&mistral, window, u64::MAX).windows.sliding, Some(4096));
}
