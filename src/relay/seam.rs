//! Where a continuation meets the text so far: what it repeats is cut, and nothing else.
//!
//! A provider that goes on with an answer may begin by saying the last words again. What it says first is held back for
//! as long as it may still be such a repeat: mostly a few letters, more only while it says word for word what was
//! said. Text may also repeat itself by chance (rows of a table, a refrain), so how much counts as a repeat depends on how
//! the continuation was asked for. Pure.

/// How a continuation was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Joint {
    /// The text so far is the beginning of the model's own turn: it goes on where that ends.
    Exact,
    /// The same, but for white space at its end, which the model says again.
    Trimmed,
    /// The model was told to go on, and does so as it sees fit.
    InWords,
}

/// A repeat of a model that stands where its text ends has at least so many letters and digits.
const SURELY_A_REPEAT: usize = 16;
/// One that a model was told not to make and that does not begin where a word does, so many characters.
const NO_CHANCE: usize = 8;
/// Repeats are looked for in so much of the text so far.
const REACH: usize = 16 * 1024;

#[derive(Debug)]
pub struct Seam {
    /// The text so far, as far back as repeats are looked for.
    said: String,
    joint: Joint,
    /// The beginning of the continuation, until it is decided.
    held: Option<String>,
}

impl Seam {
    pub fn new(said: &str, joint: Joint) -> Seam {
        let reach = said.ceil_char_boundary(said.len().saturating_sub(REACH));
        Seam { said: said[reach..].to_owned(), joint, held: Some(String::new()) }
    }

    /// Takes the next piece of the continuation and returns what is new for sure.
    pub fn push(&mut self, piece: String) -> String {
        let Some(mut held) = self.held.take() else { return piece };
        held.push_str(&piece);
        let longer = |end: &&str| end.len() > held.len() && end.starts_with(&held);
        if self.ends().filter(longer).any(|end| self.counts(end)) {
            self.held = Some(held);
            return String::new();
        }
        self.without_repeat(&held)
    }

    /// The continuation ended: what is still held and repeats nothing.
    pub fn finish(&mut self) -> String {
        self.held.take().map_or_else(String::new, |held| self.without_repeat(&held))
    }

    fn without_repeat(&self, held: &str) -> String {
        let repeated = self.ends().find(|end| held.starts_with(end) && self.counts(end)).map_or(0, str::len);
        held[repeated..].to_owned()
    }

    /// The ends of the text so far, the longest first.
    fn ends(&self) -> impl Iterator<Item = &str> {
        self.said.char_indices().map(|(at, _)| &self.said[at..])
    }

    /// Whether saying this end again is a repeat.
    fn counts(&self, end: &str) -> bool {
        let letters = end.chars().filter(|letter| letter.is_alphanumeric()).take(SURELY_A_REPEAT).count();
        let before = self.said[..self.said.len() - end.len()].chars().next_back();
        let begins_a_word =
            || end.starts_with(char::is_whitespace) || before.is_none_or(|before| !before.is_alphanumeric());
        match self.joint {
            Joint::Trimmed if end.trim_start().is_empty() => true,
            Joint::Exact | Joint::Trimmed => letters >= SURELY_A_REPEAT,
            Joint::InWords if letters == 0 => end == " ",
            Joint::InWords => begins_a_word() || end.chars().count() >= NO_CHANCE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(joint: Joint, said: &str, pieces: &[&str]) -> String {
        let mut seam = Seam::new(said, joint);
        let mut text = said.to_owned();
        for piece in pieces {
            text.push_str(&seam.push((*piece).to_owned()));
        }
        text + &seam.finish()
    }

    #[test]
    fn what_a_model_repeats_that_was_told_to_go_on_is_cut_and_nothing_else() {
        let cases: [(&str, &[&str], &str); 13] = [
            ("Hello wor", &["ld"], "Hello world"),
            ("Hello wor", &["wor", "ld"], "Hello world"),
            ("Hello wor", &["Hello", " world"], "Hello world"),
            ("Hello wor", &["H", "e", "llo wor", "ld"], "Hello world"),
            ("Hel", &["lo"], "Hello"),
            ("one two ", &[" three"], "one two three"),
            ("one two", &[" three"], "one two three"),
            ("one\n", &["\ntwo"], "one\n\ntwo"),
            ("Grüße aus 東京", &["東京", "タワー"], "Grüße aus 東京タワー"),
            ("a b", &["b"], "a b"),
            ("a b", &["c"], "a bc"),
            ("x", &[], "x"),
            ("", &["all of it"], "all of it"),
        ];
        for (said, pieces, expected) in cases {
            assert_eq!(joined(Joint::InWords, said, pieces), expected, "{said:?} + {pieces:?}");
        }
    }

    #[test]
    fn who_stands_where_the_text_ends_may_say_like_things_again() {
        let cases: [(&str, &[&str]); 6] = [
            ("1 1", &[" 1", " 1"]),
            ("| --- | --- |", &[" --- |", " --- |\n"]),
            ("{\n  ", &["  x"]),
            ("a\n", &["\n", "b"]),
            ("la la la", &[" la la la"]),
            ("ha", &["ha"]),
        ];
        for (said, pieces) in cases {
            let whole = format!("{said}{}", pieces.concat());
            assert_eq!(joined(Joint::Exact, said, pieces), whole, "{said:?} + {pieces:?}");
        }
        let said = "There were once three little pigs";
        assert_eq!(joined(Joint::Exact, said, &[said, " who"]), format!("{said} who"));
    }

    #[test]
    fn white_space_that_was_not_sent_is_said_once() {
        for (said, pieces, expected) in [
            ("one ", [" ", "two"], "one two"),
            ("one ", ["two", ""], "one two"),
            ("one\n", ["\n", "\ntwo"], "one\n\ntwo"),
            ("one\n\n", ["\n\n", "two"], "one\n\ntwo"),
            ("one\n\n", ["two", " three"], "one\n\ntwo three"),
        ] {
            assert_eq!(joined(Joint::Trimmed, said, &pieces), expected, "{said:?} + {pieces:?}");
        }
    }

    #[test]
    fn a_repeat_of_all_that_was_said_is_cut_too() {
        let said: String = (0..100).map(|n| format!("word{n} ")).collect();
        for joint in [Joint::Exact, Joint::Trimmed, Joint::InWords] {
            for size in [1, 5, 64, 200] {
                let again = format!("{said}and the end");
                let pieces: Vec<&str> = again
                    .as_bytes()
                    .chunks(size)
                    .map(|piece| std::str::from_utf8(piece).expect("ASCII"))
                    .collect();
                assert_eq!(joined(joint, &said, &pieces), again, "{joint:?} in pieces of {size}");
            }
        }
    }

    #[test]
    fn what_turns_out_to_be_no_repeat_is_said() {
        let said = "one two three four five six seven eight nine ten";
        assert_eq!(
            joined(Joint::InWords, said, &["two three four ", "and so on"]),
            format!("{said}two three four and so on")
        );
    }

    #[test]
    fn little_is_held_back() {
        let mut seam = Seam::new(&"abc ".repeat(100), Joint::InWords);
        assert_eq!(seam.push("abd".into()), "abd");
        assert_eq!(seam.push("abc ".into()), "abc ");
    }
}
