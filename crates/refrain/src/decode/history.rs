//! What a stream has read and written so far.

/// The tokens of a prompt and those written after it, and how often each occurs.
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    tokens: Vec<u32>,
    prompt_len: usize,
    /// By token.
    counts: Vec<u32>,
}

impl History {
    /// A prompt after which nothing is written yet.
    ///
    /// # Panics
    /// If one of its tokens is none of the vocabulary.
    pub fn new(prompt: &[u32], vocab_size: usize) -> Self {
        let mut history = Self { tokens: Vec::new(), prompt_len: prompt.len(), counts: vec![0; vocab_size] };
        for &token in prompt {
            history.push(token);
        }
        history
    }

    /// Adds a token.
    ///
    /// # Panics
    /// If it is none of the vocabulary.
    pub fn push(&mut self, token: u32) {
        self.counts[token as usize] += 1;
        self.tokens.push(token);
    }

    /// The prompt, and what was written after it.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// What was written after the prompt.
    pub fn written(&self) -> &[u32] {
        &self.tokens[self.prompt_len..]
    }

    /// How often each token of the vocabulary occurs, the prompt included.
    pub fn counts(&self) -> &[u32] {
        &self.counts
    }
}
