//! What happens to a conversation that has outgrown the model's context.

use crate::text::{Message, Role};

/// How a conversation that does not fit into the context is treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ContextPolicy {
    /// The oldest turns are left out until the rest and its answer fit. A turn is a message of the user with all that follows it
    /// up to the next; system messages and the last turn always stay. How many messages went is in
    /// [`crate::GenerationStats::dropped_messages`].
    #[default]
    DropOldest,
    /// A prompt that is longer than the context is an error.
    Fail,
}

/// Turns a conversation into tokens; `None` for one that is certainly too long.
pub(crate) type Tokenize<'a, E> = dyn FnMut(&[Message]) -> Result<Option<Vec<u32>>, E> + 'a;

impl ContextPolicy {
    /// Tokens that are kept free for an answer whose length nobody limits, where the context allows it.
    pub const ANSWER_TOKENS: u32 = 512;

    /// Tokens of the context that are kept free for the answer: `max_tokens`, or [`ContextPolicy::ANSWER_TOKENS`], but never more
    /// than half of the context, which belongs to the conversation.
    pub const fn reserve(context: u32, max_tokens: Option<u32>) -> u32 {
        let wanted = match max_tokens {
            Some(tokens) => tokens,
            None => Self::ANSWER_TOKENS,
        };
        if wanted < context / 2 { wanted } else { context / 2 }
    }

    /// The tokens of a conversation by `prompt`, shortened as the policy says. `context` is the model's (`None`: it has no end),
    /// `max_tokens` the most that the answer may have. What is returned may still be too long: when the last turn alone is. `prompt`
    /// gives `None` for what is longer than any context of this length, and so does this for a last turn that is.
    ///
    /// # Errors
    /// Those of `prompt`.
    pub fn fit<E>(
        self,
        messages: &[Message],
        context: Option<u32>,
        max_tokens: Option<u32>,
        prompt: &mut Tokenize<'_, E>,
    ) -> Result<Option<FittedPrompt>, E> {
        let whole = prompt(messages)?.map(|tokens| FittedPrompt { tokens, dropped_messages: 0 });
        let Some(context) = context.filter(|_| self == ContextPolicy::DropOldest) else { return Ok(whole) };
        let room = context.saturating_sub(Self::reserve(context, max_tokens)) as usize;
        let fits = |fitted: &Option<FittedPrompt>| fitted.as_ref().is_some_and(|fitted| fitted.tokens.len() <= room);
        if fits(&whole) {
            return Ok(whole);
        }
        let starts = turns(messages);
        let Some(last) = starts.len().checked_sub(1).filter(|&last| last > 0) else { return Ok(whole) };
        let mut dropping = |turns: usize| {
            let kept = without(messages, starts[turns]);
            let dropped_messages = messages.len() - kept.len();
            Ok(prompt(&kept)?.map(|tokens| FittedPrompt { tokens, dropped_messages }))
        };
        let mut best = dropping(last)?;
        if fits(&best) {
            // Fewer turns, fewer tokens: the first number that is enough is found by halving.
            let (mut too_few, mut enough) = (0, last);
            while enough - too_few > 1 {
                let turns = too_few.midpoint(enough);
                let shortened = dropping(turns)?;
                if fits(&shortened) {
                    (best, enough) = (shortened, turns);
                } else {
                    too_few = turns;
                }
            }
        }
        Ok(best)
    }
}

/// A conversation as tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FittedPrompt {
    /// Tokens of the whole prompt.
    pub tokens: Vec<u32>,
    /// Messages that were left out of it.
    pub dropped_messages: usize,
}

/// Where the turns begin. Messages before the first of the user, system messages aside, are a turn of their own.
fn turns(messages: &[Message]) -> Vec<usize> {
    let said = messages.iter().position(|message| message.role != Role::System);
    let user = messages.iter().enumerate().filter(|(_, message)| message.role == Role::User).map(|(index, _)| index);
    let mut starts: Vec<usize> = said.into_iter().chain(user).collect();
    starts.dedup();
    starts
}

/// The messages of a conversation of which this many were left out.
pub(crate) fn kept(messages: &[Message], dropped: usize) -> Vec<Message> {
    let mut left = dropped;
    let stays = |message: &&Message| {
        let goes = message.role != Role::System && left > 0;
        left -= usize::from(goes);
        !goes
    };
    messages.iter().filter(stays).cloned().collect()
}

/// The messages from `start` on, and the system messages before it.
fn without(messages: &[Message], start: usize) -> Vec<Message> {
    let (before, after) = messages.split_at(start);
    before.iter().filter(|message| message.role == Role::System).chain(after).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    /// A token for each character and two around each message.
    fn prompt(messages: &[Message]) -> Result<Option<Vec<u32>>, Infallible> {
        let tokens =
            |message: &Message| vec![message.content.bytes().next().map_or(0, u32::from); message.content.len() + 2];
        Ok(Some(messages.iter().flat_map(tokens).collect()))
    }

    fn conversation(said: &[(Role, &str)]) -> Vec<Message> {
        said.iter().map(|&(role, text)| Message::new(role, text)).collect()
    }

    fn fit(policy: ContextPolicy, messages: &[Message], context: Option<u32>, max_tokens: u32) -> FittedPrompt {
        policy.fit(messages, context, Some(max_tokens), &mut prompt).unwrap().unwrap()
    }

    use Role::{Assistant, System, Tool, User};

    #[test]
    fn whole_turns_go_and_system_messages_stay() {
        let said = [
            (System, "sys"),
            (User, "aaaa"),
            (Assistant, "bbbb"),
            (User, "cccc"),
            (Assistant, "call"),
            (Tool, "done"),
            (Assistant, "dddd"),
            (System, "note"),
            (User, "eeee"),
        ];
        let messages = conversation(&said);
        let whole = prompt(&messages).unwrap().unwrap().len() as u32;
        let drop = ContextPolicy::DropOldest;
        assert_eq!(fit(drop, &messages, Some(whole + 8), 8).dropped_messages, 0);
        // One token too many: the first pair goes, and with the next the tool's result, but not the note after it.
        let shorter = fit(drop, &messages, Some(whole + 7), 8);
        assert_eq!(shorter.dropped_messages, 2);
        assert_eq!(shorter.tokens, prompt(&kept(&messages, 2)).unwrap().unwrap());
        assert_eq!(shorter.tokens, prompt(&[&messages[..1], &messages[3..]].concat()).unwrap().unwrap());
        let shortest = fit(drop, &messages, Some(whole - 12 + 7), 8);
        assert_eq!(shortest.dropped_messages, 6);
        assert_eq!(shortest.tokens, prompt(&[&messages[..1], &messages[7..]].concat()).unwrap().unwrap());
        // The last turn stays whatever it takes.
        assert_eq!(fit(drop, &messages, Some(3), 1), shortest);
        assert_eq!(fit(ContextPolicy::Fail, &messages, Some(3), 1).dropped_messages, 0);
        assert_eq!(fit(drop, &messages, None, 8).dropped_messages, 0);
    }

    #[test]
    fn a_greeting_is_a_turn_and_one_turn_alone_is_never_dropped() {
        let messages = conversation(&[(Assistant, "hello"), (User, "hi"), (Assistant, "yes?"), (User, "bye")]);
        let dropped = |room: u32| fit(ContextPolicy::DropOldest, &messages, Some(room + 2), 2).dropped_messages;
        assert_eq!([22, 21, 15, 14, 5].map(dropped), [0, 1, 1, 3, 3]);
        for alone in
            [&conversation(&[(User, "long question")])[..], &conversation(&[(System, "long"), (User, "x")]), &[]]
        {
            assert_eq!(fit(ContextPolicy::DropOldest, alone, Some(2), 1).dropped_messages, 0);
        }
    }

    #[test]
    fn as_few_turns_as_possible_of_many() {
        let said: Vec<_> = (0..100).flat_map(|_| [(User, "12345678"), (Assistant, "12345678")]).collect();
        let messages = conversation(&said);
        for room in 40..2000 {
            let fitted = fit(ContextPolicy::DropOldest, &messages, Some(room + 40), 40);
            let turns_kept = 100 - fitted.dropped_messages / 2;
            assert!(fitted.dropped_messages.is_multiple_of(2) && fitted.tokens.len() == 20 * turns_kept);
            assert_eq!(turns_kept, (room / 20).clamp(1, 100) as usize, "room {room}");
        }
    }

    #[test]
    fn the_answer_gets_at_most_half_of_the_context() {
        assert_eq!(ContextPolicy::reserve(4096, None), 512);
        assert_eq!(ContextPolicy::reserve(4096, Some(100)), 100);
        assert_eq!(ContextPolicy::reserve(4096, Some(4096)), 2048);
        assert_eq!(ContextPolicy::reserve(256, None), 128);
        assert_eq!(ContextPolicy::reserve(0, None), 0);
    }
}
