//! The canonical request, read by type: what providers of other dialects translate from.
//!
//! Nothing is dropped in silence: whatever a provider does not take is refused by name.

use serde_json::{Map, Value};

use super::{Invalid, Message, Request};

/// A piece of a message's content.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    Text(String),
    Refusal(String),
    Image(Media),
    /// `format`: `wav`, `mp3`; `data` is base64.
    Audio {
        format: String,
        data: String,
    },
    File {
        name: Option<String>,
        media: Media,
    },
}

/// Where an image or a file is.
#[derive(Debug, Clone, PartialEq)]
pub enum Media {
    /// Base64, as in a `data:` URL.
    Inline {
        mime: String,
        data: String,
    },
    Url(String),
    /// Kept by the provider under this id.
    Id(String),
}

/// A block of an assistant's earlier reasoning.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Thought {
    pub text: String,
    pub signature: Option<String>,
    pub redacted: bool,
}

/// A call that an assistant made. `arguments` is the JSON text as it was said.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    pub id: String,
    pub name: String,
    pub arguments: String,
    pub signature: Option<String>,
}

/// A function that the model may call. `parameters` is a JSON schema.
#[derive(Debug, Clone, PartialEq)]
pub struct Function {
    pub name: String,
    pub description: Option<String>,
    pub parameters: Option<Value>,
    pub strict: Option<bool>,
}

/// Which tool must be called.
#[derive(Debug, Clone, PartialEq)]
pub enum Choice {
    Auto,
    None,
    /// Any of them.
    Required,
    Function(String),
}

/// What shape the answer must have.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    Text,
    /// Some JSON object.
    Json,
    Schema {
        name: String,
        schema: Value,
        strict: Option<bool>,
    },
}

/// Parameters, taken one by one; [`Params::finish`] refuses what is left.
#[derive(Debug)]
pub struct Params(Map<String, Value>);

impl Params {
    pub fn of(request: &Request) -> Params {
        let mut params = request.params.clone();
        params.retain(|_, value| !value.is_null());
        Params(params)
    }

    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.0.shift_remove(name)
    }

    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// Drops what says nothing that the provider's answer depends on.
    pub fn ignore(&mut self, names: &[&str]) {
        for name in names {
            self.0.shift_remove(*name);
        }
    }

    /// `max_completion_tokens`, else `max_tokens`.
    pub fn max_tokens(&mut self) -> Option<u64> {
        let (newer, older) = (self.take("max_completion_tokens"), self.take("max_tokens"));
        newer.or(older).and_then(|value| value.as_u64())
    }

    /// `stop`, as a list.
    pub fn stop(&mut self) -> Vec<String> {
        match self.take("stop") {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(many)) => {
                many.iter().filter_map(|text| text.as_str().map(str::to_owned)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// `tools`, all of which must be functions.
    pub fn functions(&mut self) -> Result<Vec<Function>, Invalid> {
        let Some(Value::Array(tools)) = self.take("tools") else { return Ok(Vec::new()) };
        tools.iter().enumerate().map(|(at, tool)| function(at, tool)).collect()
    }

    pub fn tool_choice(&mut self) -> Result<Option<Choice>, Invalid> {
        let Some(value) = self.take("tool_choice") else { return Ok(None) };
        let named = || value["function"]["name"].as_str().or(value["name"].as_str());
        match value.as_str() {
            Some("auto") => Ok(Some(Choice::Auto)),
            Some("none") => Ok(Some(Choice::None)),
            Some("required" | "any") => Ok(Some(Choice::Required)),
            _ => match named() {
                Some(name) => Ok(Some(Choice::Function(name.to_owned()))),
                None => Err(Invalid::new(
                    "tool_choice",
                    format!("cannot be translated for this provider: {value}"),
                )),
            },
        }
    }

    /// `response_format`.
    pub fn shape(&mut self) -> Result<Option<Shape>, Invalid> {
        let Some(value) = self.take("response_format") else { return Ok(None) };
        let schema = &value["json_schema"];
        match value["type"].as_str() {
            Some("text") => Ok(Some(Shape::Text)),
            Some("json_object") => Ok(Some(Shape::Json)),
            Some("json_schema") if schema["schema"].is_object() => Ok(Some(Shape::Schema {
                name: schema["name"].as_str().unwrap_or("answer").to_owned(),
                schema: schema["schema"].clone(),
                strict: schema["strict"].as_bool(),
            })),
            _ => Err(Invalid::new(
                "response_format",
                "expected type text, json_object, or json_schema with a schema",
            )),
        }
    }

    /// Refuses what nobody took. `dialect`: who does not know it.
    pub fn finish(self, dialect: &str) -> Result<(), Invalid> {
        match self.0.into_iter().next() {
            None => Ok(()),
            Some((name, _)) => Err(Invalid::new(
                name,
                format!("has no counterpart in the {dialect} dialect of this model's provider"),
            )),
        }
    }
}

fn function(at: usize, tool: &Value) -> Result<Function, Invalid> {
    let refuse = |message: String| Err(Invalid::new(format!("tools[{at}]"), message));
    if let Some(kind) = tool["type"].as_str().filter(|kind| *kind != "function") {
        return refuse(format!("a tool of type \"{kind}\" is not one that this model's provider has"));
    }
    let inner = if tool["function"].is_object() { &tool["function"] } else { tool };
    let Some(name) = inner["name"].as_str() else { return refuse("a function needs a name".into()) };
    Ok(Function {
        name: name.to_owned(),
        description: inner["description"].as_str().map(str::to_owned),
        parameters: inner.get("parameters").filter(|schema| schema.is_object()).cloned(),
        strict: inner["strict"].as_bool(),
    })
}

impl Message {
    /// The content by type. `at`: the message's place, for the error.
    pub fn parts(&self, at: usize) -> Result<Vec<Part>, Invalid> {
        match &self.content {
            Value::String(text) => Ok(vec![Part::Text(text.clone())]),
            Value::Array(parts) => parts
                .iter()
                .enumerate()
                .map(|(nth, value)| {
                    part(value)
                        .map_err(|message| Invalid::new(format!("messages[{at}].content[{nth}]"), message))
                })
                .collect(),
            _ => Ok(Vec::new()),
        }
    }

    /// The content, if it is all text.
    pub fn text(&self, at: usize) -> Result<String, Invalid> {
        let mut joined = String::new();
        for (nth, part) in self.parts(at)?.into_iter().enumerate() {
            match part {
                Part::Text(text) | Part::Refusal(text) => joined.push_str(&text),
                _ => {
                    return Err(Invalid::new(
                        format!("messages[{at}].content[{nth}]"),
                        "only text can stand here",
                    ));
                }
            }
        }
        Ok(joined)
    }

    pub fn calls(&self, at: usize) -> Result<Vec<Call>, Invalid> {
        let Some(calls) = self.rest.get("tool_calls").and_then(Value::as_array) else {
            return Ok(Vec::new());
        };
        let call = |(nth, call): (usize, &Value)| {
            let function = &call["function"];
            let field = format!("messages[{at}].tool_calls[{nth}]");
            let Some(name) = function["name"].as_str() else {
                return Err(Invalid::new(
                    field,
                    "only calls of functions can be translated, and they need a name",
                ));
            };
            let google = &call["extra_content"]["google"]["thought_signature"];
            Ok(Call {
                id: call["id"].as_str().unwrap_or_default().to_owned(),
                name: name.to_owned(),
                arguments: match &function["arguments"] {
                    Value::String(text) => text.clone(),
                    Value::Null => String::new(),
                    object => object.to_string(),
                },
                signature: call["signature"].as_str().or(google.as_str()).map(str::to_owned),
            })
        };
        calls.iter().enumerate().map(call).collect()
    }

    /// Earlier reasoning: `reasoning` blocks, or `reasoning_content` as most servers call it.
    pub fn thoughts(&self) -> Vec<Thought> {
        if let Some(Value::Array(blocks)) = self.rest.get("reasoning") {
            return blocks
                .iter()
                .map(|block| Thought {
                    text: block["text"].as_str().unwrap_or_default().to_owned(),
                    signature: block["signature"].as_str().map(str::to_owned),
                    redacted: block["redacted"].as_bool().unwrap_or(false),
                })
                .collect();
        }
        let plain = ["reasoning_content", "reasoning"].iter().find_map(|name| self.rest.get(*name)?.as_str());
        let plain = plain.filter(|text| !text.is_empty());
        plain.map(|text| Thought { text: text.to_owned(), ..Thought::default() }).into_iter().collect()
    }

    /// Which call a tool's message answers.
    pub fn call_id(&self) -> Option<&str> {
        self.rest.get("tool_call_id").and_then(Value::as_str)
    }
}

fn part(part: &Value) -> Result<Part, String> {
    let text = |name: &str| {
        part[name].as_str().map(str::to_owned).ok_or_else(|| format!("`{name}` must be a string"))
    };
    let said = part["type"].as_str().ok_or("`type` must be a string")?;
    match said {
        "text" | "input_text" | "output_text" => Ok(Part::Text(text("text")?)),
        "refusal" => Ok(Part::Refusal(text("refusal")?)),
        "image_url" => {
            let url = part["image_url"]["url"].as_str().or(part["image_url"].as_str());
            Ok(Part::Image(media(url.ok_or("`image_url.url` must be a string")?)))
        }
        "input_audio" => {
            let audio = &part["input_audio"];
            match (audio["format"].as_str(), audio["data"].as_str()) {
                (Some(format), Some(data)) => {
                    Ok(Part::Audio { format: format.to_owned(), data: data.to_owned() })
                }
                _ => Err("`input_audio` needs `format` and `data`".into()),
            }
        }
        "file" => {
            let file = &part["file"];
            let media =
                match (file["file_data"].as_str(), file["file_id"].as_str(), file["file_url"].as_str()) {
                    (Some(data), ..) => media(data),
                    (_, Some(id), _) => Media::Id(id.to_owned()),
                    (.., Some(url)) => Media::Url(url.to_owned()),
                    _ => return Err("`file` needs `file_data`, `file_id` or `file_url`".into()),
                };
            Ok(Part::File { name: file["filename"].as_str().map(str::to_owned), media })
        }
        other => Err(format!("a part of type \"{other}\" cannot be translated for this provider")),
    }
}

/// A `data:` URL's content, or the URL.
pub fn media(url: &str) -> Media {
    let inline = || {
        let (head, data) = url.strip_prefix("data:")?.split_once(',')?;
        let mime = head.strip_suffix(";base64")?.split(';').next()?;
        Some(Media::Inline { mime: mime.to_owned(), data: data.to_owned() })
    };
    inline().unwrap_or_else(|| Media::Url(url.to_owned()))
}
