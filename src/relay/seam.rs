//! Where a continuation meets the text so far: what it repeats is cut, and nothing else.
//!
//! A provider that goes on with an answer may begin by saying the last words again. What it says first is held back for
//! as long as it may still be such a repeat: mostly a few letters, more only while it says word for word what was
//! said. Pure.

/// A repeat that does not begin where a word does must be this long, in characters: shorter ones are chance.
const SURELY_A_REPEAT: usize = 8;

#[derive(Debug)]
pub struct Seam {
    /// The text so far.
    said: String,
    /// The beginning of the continuation, until it is decided.
    held: Option<String>,
}

impl Seam {
    pub fn new(said: String) -> Seam {
        Seam { said, held: Some(String::new()) }
    }

    /// Takes the next piece of the continuation and returns what is new for sure.
    pub fn push(&mut self, piece: &str) -> String {
        let Some(mut held) = self.held.take() else { return piece.to_owned() };
        held.push_str(piece);
        let undecided = self.ends().any(|end| end.len() > held.len() && end.starts_with(&held));
        if undecided {
            self.held = Some(held);
            return String::new();
        }
        self.without_repeat(held)
    }

    /// The continuation ended: what is still held and repeats nothing.
    pub fn finish(&mut self) -> String {
        self.held.take().map_or_else(String::new, |held| self.without_repeat(held))
    }

    fn without_repeat(&self, held: String) -> String {
        let repeated = self.ends().find(|end| held.starts_with(end)).map_or(0, str::len);
        held[repeated..].to_owned()
    }

    /// The ends of the text so far that count when they are repeated, the longest first.
    fn ends(&self) -> impl Iterator<Item = &str> {
        let total = self.said.chars().count();
        self.said.char_indices().enumerate().filter_map(move |(nth, (at, letter))| {
            let before = self.said[..at].chars().next_back();
            let word = letter.is_whitespace() || before.is_none_or(|before| !before.is_alphanumeric());
            (word || total - nth >= SURELY_A_REPEAT).then_some(&self.said[at..])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(said: &str, pieces: &[&str]) -> String {
        let mut seam = Seam::new(said.to_owned());
        let mut text = said.to_owned();
        for piece in pieces {
            text.push_str(&seam.push(piece));
        }
        text + &seam.finish()
    }

    #[test]
    fn what_is_repeated_is_cut_and_nothing_else() {
        let cases: [(&str, &[&str], &str); 12] = [
            ("Hello wor", &["ld"], "Hello world"),
            ("Hello wor", &["wor", "ld"], "Hello world"),
            ("Hello wor", &["Hello", " world"], "Hello world"),
            ("Hello wor", &["H", "e", "llo wor", "ld"], "Hello world"),
            ("Hel", &["lo"], "Hello"),
            ("one two ", &[" three"], "one two three"),
            ("one two", &[" three"], "one two three"),
            ("Grüße aus 東京", &["東京", "タワー"], "Grüße aus 東京タワー"),
            ("a b", &["b"], "a b"),
            ("a b", &["c"], "a bc"),
            ("x", &[], "x"),
            ("", &["all of it"], "all of it"),
        ];
        for (said, pieces, expected) in cases {
            assert_eq!(joined(said, pieces), expected, "{said:?} + {pieces:?}");
        }
    }

    #[test]
    fn a_repeat_longer_than_what_is_held_is_cut_too() {
        let said: String = (0..100).map(|n| format!("word{n} ")).collect();
        for size in [1, 5, 64, 200] {
            let again = format!("{said}and the end");
            let pieces: Vec<&str> = again
                .as_bytes()
                .chunks(size)
                .map(|piece| std::str::from_utf8(piece).expect("ASCII"))
                .collect();
            assert_eq!(joined(&said, &pieces), again, "in pieces of {size}");
        }
    }

    #[test]
    fn what_turns_out_to_be_no_repeat_is_said() {
        let said = "one two three four five six seven eight nine ten";
        assert_eq!(
            joined(said, &["two three four ", "and so on"]),
            format!("{said}two three four and so on")
        );
    }

    #[test]
    fn little_is_held_back() {
        let mut seam = Seam::new("abc ".repeat(100));
        assert_eq!(seam.push("abd"), "abd");
        assert_eq!(seam.push("abc "), "abc ");
    }
}
