use super::*;
use crate::rng::SplitMix64;
use crate::scripted::{Scripted, info};
use proptest::prelude::*;
use std::sync::atomic::Ordering;

const VOCAB: u32 = 7;

/// Logits that depend on every visible token and its order.
fn fingerprint(seen: &[u32]) -> Vec<f32> {
    let hash = seen.iter().fold(1u64, |hash, &token| SplitMix64::new(hash ^ u64::from(token)).next());
    (0..VOCAB).map(|id| ((hash >> (8 * id)) & 0xff) as f32).collect()
}

fn session(context: Option<u32>, window: Option<u32>, sinks: u32, chunk: u32) -> Session {
    Session::new(Box::new(Scripted::new(info(VOCAB, context, window, sinks, chunk), Box::new(fingerprint))))
}

/// The same model with a state.
fn recurrent(context: Option<u32>, window: Option<u32>, chunk: u32) -> Session {
    Session::new(Box::new(Scripted::recurrent(info(VOCAB, context, window, 0, chunk), Box::new(fingerprint))))
}

/// A prompt that shares a prefix with what the cache holds.
#[derive(Clone, Debug)]
struct Turn {
    /// Where a state is set aside, and whether the call is cancelled before it is done.
    aside: Option<usize>,
    cancelled: bool,
    keep: usize,
    fresh: Vec<u32>,
    decode: Vec<u32>,
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let tokens = || proptest::collection::vec(0..VOCAB, 0..12);
    let how = (prop::option::of(0usize..40), prop::bool::weighted(0.2));
    let turn = (how, 0usize..60, tokens(), tokens()).prop_map(|((aside, cancelled), keep, fresh, decode)| Turn {
        aside,
        cancelled,
        keep,
        fresh,
        decode,
    });
    proptest::collection::vec(turn, 1..8)
}

fn check(mut session: Session, fresh_session: impl Fn() -> Session, turns: Vec<Turn>) {
    let cancel = CancelFlag::new();
    for turn in turns {
        let keep = turn.keep.min(session.cached().len());
        let prompt = [&session.cached()[..keep], &turn.fresh].concat();
        let room = session.capacity();
        if prompt.is_empty() || prompt.len() > room {
            assert!(session.prefill(&prompt, &cancel).is_err());
            continue;
        }
        if turn.cancelled {
            let cancel = CancelFlag::new();
            cancel.cancel();
            assert!(matches!(session.prefill_keeping(&prompt, turn.aside, &cancel), Err(EngineError::Cancelled)));
        }
        session.prefill_keeping(&prompt, turn.aside, &cancel).unwrap();
        let mut fresh = fresh_session();
        fresh.prefill(&prompt, &cancel).unwrap();
        assert_eq!(session.logits(), fresh.logits());
        for token in turn.decode {
            if session.is_full() {
                assert!(matches!(session.decode(token), Err(EngineError::PromptTooLong { .. })));
                break;
            }
            session.decode(token).unwrap();
            fresh.decode(token).unwrap();
            assert_eq!(session.logits(), fresh.logits());
        }
    }
}

proptest! {
    /// Whatever is reused from the cache, the logits are those of a fresh computation; the scripted device checks on its own
    /// that no query sees a slot that holds another position.
    #[test]
    fn reuse_changes_nothing_in_a_full_context(turns in turns(), chunk in 1u32..6) {
        check(session(Some(40), None, 0, chunk), || session(Some(40), None, 0, chunk), turns);
    }

    #[test]
    fn reuse_changes_nothing_with_a_window(turns in turns(), window in 1u32..9, sinks in 0u32..4, chunk in 1u32..6) {
        let make = || session(None, Some(window), sinks, chunk);
        check(make(), make, turns);
    }
}

proptest! {
    /// The scripted device checks that a state is that of the position before.
    #[test]
    fn reuse_changes_nothing_with_a_state(turns in turns(), window in prop::option::of(1u32..9), chunk in 1u32..6) {
        let context = window.is_none().then_some(40);
        let make = || recurrent(context, window, chunk);
        check(make(), make, turns);
    }
}

#[test]
fn a_state_is_gone_back_to_where_it_was_set_aside() {
    let model = Scripted::recurrent(info(VOCAB, Some(40), None, 0, 4), Box::new(fingerprint));
    let computed = model.computed.clone();
    let mut session = Session::new(Box::new(model));
    let cancel = CancelFlag::new();
    // A prompt of which the last two tokens ask for the answer.
    assert_eq!(session.prefill_keeping(&[1, 2, 3, 4, 5, 6], Some(4), &cancel).unwrap(), 0);
    session.append(&[3, 3], &cancel).unwrap();
    // The next keeps what was said and leaves out what was thought; and so does the one after it.
    assert_eq!(session.prefill_keeping(&[1, 2, 3, 4, 0, 0, 5, 6], Some(6), &cancel).unwrap(), 4);
    session.append(&[3], &cancel).unwrap();
    assert_eq!(session.prefill_keeping(&[1, 2, 3, 4, 0, 0, 1, 5, 6], Some(7), &cancel).unwrap(), 6);
    assert_eq!(computed.load(Ordering::Relaxed), 6 + 2 + 4 + 1 + 3);
    // The same prompt again, and one that differs earlier.
    assert_eq!(session.prefill_keeping(&[1, 2, 3, 4, 0, 0, 1, 5, 6], Some(7), &cancel).unwrap(), 7);
    assert_eq!(session.prefill(&[1, 2, 3, 0], &cancel).unwrap(), 0);
}

#[test]
fn the_common_prefix_is_not_computed_again() {
    let model = Scripted::new(info(VOCAB, Some(40), None, 0, 4), Box::new(fingerprint));
    let computed = model.computed.clone();
    let mut session = Session::new(Box::new(model));
    let cancel = CancelFlag::new();
    assert_eq!(session.prefill(&[1, 2, 3, 4, 5], &cancel).unwrap(), 0);
    session.decode(6).unwrap();
    assert_eq!(session.prefill(&[1, 2, 3, 4, 5, 6, 1], &cancel).unwrap(), 6);
    assert_eq!(session.prefill(&[1, 2, 0], &cancel).unwrap(), 2);
    assert_eq!(session.prefill(&[1, 2, 0], &cancel).unwrap(), 2);
    assert_eq!(computed.load(Ordering::Relaxed), 5 + 1 + 1 + 1 + 1);
}

#[test]
fn a_window_goes_back_only_as_far_as_its_ring_reaches() {
    let cancel = CancelFlag::new();
    // Slots: 4 + 3 - 1 = 6. After 20 positions, 14..20 are there; a query at p sees p - 3..=p.
    let tokens: Vec<u32> = (0..20).map(|token| token % VOCAB).collect();
    let with_end = |keep: usize| {
        let mut session = session(None, Some(4), 0, 3);
        session.prefill(&tokens, &cancel).unwrap();
        session.prefill(&[&tokens[..keep], &[6, 6]].concat(), &cancel).unwrap()
    };
    assert_eq!(with_end(20), 20);
    assert_eq!(with_end(17), 17);
    assert_eq!(with_end(16), 0);
}

#[test]
fn a_failed_step_empties_the_cache() {
    let mut model = Scripted::new(info(VOCAB, Some(40), None, 0, 4), Box::new(fingerprint));
    model.fail_at = Some(5);
    let mut session = Session::new(Box::new(model));
    let cancel = CancelFlag::new();
    session.prefill(&[1, 2, 3], &cancel).unwrap();
    assert!(matches!(session.prefill(&[1, 2, 3, 4, 5, 6], &cancel), Err(EngineError::Device(_))));
    assert!(session.cached().is_empty());
    assert_eq!(session.prefill(&[1, 2, 3], &cancel).unwrap(), 0);
}

#[test]
fn wrong_tokens_are_refused() {
    let mut session = session(Some(4), None, 0, 4);
    let cancel = CancelFlag::new();
    let text = |error: EngineError| error.to_string();
    assert_eq!(text(session.prefill(&[], &cancel).unwrap_err()), "the prompt is empty");
    assert_eq!(
        text(session.prefill(&[0; 5], &cancel).unwrap_err()),
        "the prompt has 5 tokens, but the model was compiled for a context of 4"
    );
    assert_eq!(text(session.decode(7).unwrap_err()), "token 7 is outside the model's vocabulary of 7");
    cancel.cancel();
    assert!(matches!(session.prefill(&[1], &cancel), Err(EngineError::Cancelled)));
}

#[test]
fn scores_every_position() {
    let mut session = session(Some(40), None, 0, 4);
    let tokens = [1, 2, 3, 4, 5, 6, 0, 1, 2];
    let mut rows = Vec::new();
    session.score(&tokens, &CancelFlag::new(), &mut |position, logits| rows.push((position, logits.to_vec()))).unwrap();
    let expected: Vec<_> = (0..9).map(|position| (position, fingerprint(&tokens[..=position]))).collect();
    assert_eq!(rows, expected);
}
