//! Rendered text, cut at its markers into the messages of a request, with earlier messages put in their place.
//!
//! The rules are dotprompt's. Pieces come from `template`, messages go to `Library::render`.

use serde::Serialize;

use super::template::{self, Piece};

/// `role` is `system`, `user` or `assistant`, or whatever a message of the history had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    pub role: String,
    pub content: String,
}

/// `history` goes where its marker stands, else before a last message of the user, else last.
pub(super) fn assemble(text: &str, history: &[Message]) -> Vec<Message> {
    let begin = |role: &str| Message { role: role.to_owned(), content: String::new() };
    let spoken = |message: &Message| !message.content.trim().is_empty();
    let mut messages = Vec::new();
    let mut place = None;
    let mut current = begin("user");
    for piece in template::pieces(text) {
        let next = match piece {
            Piece::Text(text) => {
                current.content.push_str(text);
                continue;
            }
            Piece::Role(role) => begin(role),
            // As in dotprompt, what follows without a role of its own is the model's.
            Piece::History => begin("assistant"),
        };
        messages.extend(Some(std::mem::replace(&mut current, next)).filter(spoken));
        if piece == Piece::History {
            place = Some(messages.len());
        }
    }
    messages.extend(Some(current).filter(spoken));
    let before_last = messages.len() - usize::from(messages.last().is_some_and(|last| last.role == "user"));
    let place = place.unwrap_or(before_last);
    messages.splice(place..place, history.iter().cloned());
    messages
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::prompts::{Library, Source};

    #[test]
    fn roles_and_history_split_messages() {
        let message =
            |role: &str, content: &str| Message { role: role.to_owned(), content: content.to_owned() };
        let library = |body: &str| {
            let text = format!("---\ninput: {{schema: {{'l?(array)': string}}}}\n---\n{body}");
            Library::new([Source { file: "a.prompt", text: &text }]).unwrap()
        };
        let past = [message("user", "u0"), message("assistant", "a0")];
        for (body, without, with) in [
            ("hi", "user:hi", "user:u0|assistant:a0|user:hi"),
            (
                "{{role \"system\"}}\n s\n{{role \"user\"}}\nu\n",
                "system:s|user:u",
                "system:s|user:u0|assistant:a0|user:u",
            ),
            ("{{role \"system\"}}s", "system:s", "system:s|user:u0|assistant:a0"),
            (
                "{{history}}{{role 'user'}}x{{role 'model'}}y",
                "user:x|assistant:y",
                "user:u0|assistant:a0|user:x|assistant:y",
            ),
            ("s{{history}} t", "user:s|assistant:t", "user:s|user:u0|assistant:a0|assistant:t"),
            ("{{role 'model'}} {{role 'user'}}", "", "user:u0|assistant:a0"),
            (
                "{{#each l}}{{role 'user'}}{{this}}{{role 'model'}}ok{{/each}}",
                "user: q |assistant:ok",
                "user: q |assistant:ok|user:u0|assistant:a0",
            ),
        ] {
            let variables = json!({"l": [" q "]}).as_object().unwrap().clone();
            for (history, expected) in [(&past[..0], without), (&past[..], with)] {
                let rendered = library(body).render("a", &variables, history).unwrap();
                let told: Vec<String> =
                    rendered.messages.iter().map(|m| format!("{}:{}", m.role, m.content)).collect();
                assert_eq!(told.join("|"), expected, "{body}");
            }
        }
    }

    #[test]
    fn loops_over_what_was_not_given_say_nothing() {
        let text = "---\ninput: {schema: {'l?(array)': string, 'o?': {x: string}}}\n---\n{{#each l}}a{{/each}}b{{#with o}}{{x}}{{/with}}";
        let library = Library::new([Source { file: "a.prompt", text }]).unwrap();
        let rendered = library.render("a", &serde_json::Map::new(), &[]).unwrap();
        assert_eq!(rendered.messages, [Message { role: "user".to_owned(), content: "b".to_owned() }]);
    }
}
