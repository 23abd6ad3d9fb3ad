use super::{Grammar, GrammarError, Guide};
use crate::text::Tokenizer;
use llguidance::toktrie::{TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use llguidance::{Matcher, ParserFactory};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// The tokens of a model in the form in which grammars are held against them.
pub(crate) struct Vocabulary {
    factory: ParserFactory,
}

impl std::fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vocabulary").finish_non_exhaustive()
    }
}

impl Vocabulary {
    /// The vocabulary of a model with `vocab_size` rows of logits that ends its answers with one of `stops`.
    ///
    /// # Errors
    /// A model that has no token to end an answer with, or tokens that are beyond all measure.
    pub(crate) fn new(tokenizer: &Tokenizer, vocab_size: u32, stops: &[u32]) -> Result<Self, String> {
        let &[first, ..] = stops else { return Err("the model has no token that ends an answer".to_owned()) };
        guarded(|| {
            let words: Vec<Vec<u8>> = (0..vocab_size).map(|id| word(tokenizer, id)).collect();
            let trie = TokTrie::from(&TokRxInfo::new(vocab_size, first), &words).with_eos_tokens(stops);
            let environment: TokEnv = Arc::new(Environment { tokenizer: tokenizer.clone(), trie });
            let mut factory = ParserFactory::new_simple(&environment).map_err(|error| format!("{error:#}"))?;
            factory.quiet();
            factory.limits_mut().verbose_errors = false;
            Ok(Self { factory })
        })
    }

    /// What leads an answer along a grammar.
    ///
    /// # Errors
    /// A grammar that is wrong, that asks for what cannot be ensured, or that nothing satisfies.
    pub(crate) fn guide(&self, grammar: &Grammar) -> Result<Guide, GrammarError> {
        let top = grammar.top_level()?;
        let parser = guarded(|| self.factory.create_parser(top).map_err(|error| format!("{error:#}")));
        let matcher = Matcher::new(Ok(parser.map_err(|problem| grammar.error(problem))?));
        match matcher.get_error() {
            Some(problem) => Err(grammar.error(problem)),
            None => Ok(Guide::new(matcher)),
        }
    }
}

/// Calls into the library, which asserts what it expects of tokens and grammars; a panic in it becomes an error.
fn guarded<T>(call: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| Err("the grammar library contradicts itself".to_owned()))
}

/// A token as the trie holds it: what it adds to the text, or, for tokens that add nothing, a mark that no text matches.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let mut bytes = tokenizer.token_bytes(id);
    if tokenizer.is_special(id) && !bytes.is_empty() {
        bytes.insert(0, TokTrie::SPECIAL_TOKEN_MARKER);
    }
    // The trie counts a token's bytes in 16 bits.
    if bytes.len() > usize::from(u16::MAX) { Vec::new() } else { bytes }
}

/// A tokenizer as the library sees it.
struct Environment {
    tokenizer: Tokenizer,
    trie: TokTrie,
}

impl TokenizerEnv for Environment {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.trie.tokenize_with_greedy_fallback(bytes, |text| {
            let greedily = || self.trie.greedy_tokenize(text.as_bytes());
            self.within_a_text(text).unwrap_or_else(greedily)
        })
    }
}

impl Environment {
    /// The tokens of `text` where it stands in the middle of another: after a line end, which no tokenizer joins to what follows and
    /// which keeps those that begin a text with a space from doing so here. `None` when the tokens do not spell the text.
    fn within_a_text(&self, text: &str) -> Option<Vec<TokenId>> {
        let before = self.tokenizer.encode("\n").ok()?;
        let mut tokens = self.tokenizer.encode(&format!("\n{text}")).ok()?;
        if !tokens.starts_with(&before) {
            return None;
        }
        tokens.drain(..before.len());
        let plain = |&token: &TokenId| token < self.trie.vocab_size() as u32 && !self.trie.is_special_token(token);
        let spelled = tokens.iter().all(plain) && self.trie.decode_raw(&tokens) == text.as_bytes();
        spelled.then_some(tokens)
    }
}
