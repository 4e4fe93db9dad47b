//! What a model reads before it writes.

use crate::text::Vocabulary;

/// The tokens of a prompt, at least one: a new line first, unless the prompt begins with one or the vocabulary has none.
///
/// Generation begins with a state of zeros, which training with carried state meets at the beginning of an epoch alone, in
/// the middle of whatever line a stream begins with. A model that begins there with other than a line's end may take
/// hundreds of characters to find its way back to the language; after one new line it knows where it is.
pub fn prompt_tokens(vocabulary: &Vocabulary, prompt: &str) -> Vec<u32> {
    let mut tokens = vocabulary.encode(prompt);
    if let Some(new_line) = vocabulary.new_line().filter(|new_line| tokens.first() != Some(new_line)) {
        tokens.insert(0, new_line);
    }
    if tokens.is_empty() {
        tokens.push(Vocabulary::UNKNOWN);
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_begins_a_line() {
        let vocabulary = Vocabulary::chars("ab\n", 1);
        assert_eq!(prompt_tokens(&vocabulary, "ab"), [1, 2, 3]);
        assert_eq!(prompt_tokens(&vocabulary, "\nab"), [1, 2, 3]);
        assert_eq!(prompt_tokens(&vocabulary, ""), [1]);
        let without_lines = Vocabulary::chars("ab", 1);
        assert_eq!(prompt_tokens(&without_lines, "ba"), [2, 1]);
        assert_eq!(prompt_tokens(&without_lines, ""), [Vocabulary::UNKNOWN]);
    }
}
