//! The YAML head of a `.prompt` file: found, parsed with the line of every key and value, and read into a [`Head`].
//!
//! It knows the keys and the sampling names, not the types of variables (`schema`) nor the body (`template`). Text comes
//! from `Library::new`; what is wrong goes back as faults with lines, all that were found and not only the first.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::Spanned;

use super::Fault;
use super::schema::{self, Kind, Shape};

/// A file cut at its `---` lines. Both parts begin with as many line breaks as stand before them in the file, so that
/// the line numbers which the two parsers report are those of the file.
pub(super) struct Parts {
    pub(super) head: Option<String>,
    pub(super) body: String,
}

/// Blank lines and `#` lines (licence headers) may stand before the first `---`. Without one, all is body.
pub(super) fn split(text: &str) -> Result<Parts, Fault> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let fence = |line: &str| line.trim_end() == "---";
    let start = lines.iter().position(|line| !line.trim().is_empty() && !line.starts_with('#'));
    let Some(open) = start.filter(|&n| fence(lines[n])) else {
        return Ok(Parts { head: None, body: text.to_owned() });
    };
    let Some(length) = lines[open + 1..].iter().position(|line| fence(line)) else {
        return Err(Fault::new(
            open + 1,
            "the front matter that begins here is never closed by a line of ---",
        ));
    };
    let close = open + 1 + length;
    let part = |from: usize, to: usize| "\n".repeat(from) + &lines[from..to].concat();
    Ok(Parts { head: Some(part(open + 1, close)), body: part(close + 1, lines.len()) })
}

/// A YAML value and the line it begins on.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) line: usize,
    pub(super) yaml: Yaml,
}

#[derive(Debug)]
pub(super) enum Yaml {
    Scalar(Value),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Debug)]
pub(super) struct Key {
    pub(super) line: usize,
    pub(super) name: String,
}

impl Node {
    pub(super) fn get(&self, name: &str) -> Option<&Node> {
        let Yaml::Map(entries) = &self.yaml else { return None };
        entries.iter().find(|(key, _)| key.name == name).map(|(_, node)| node)
    }

    pub(super) fn text(&self) -> Option<&str> {
        let Yaml::Scalar(value) = &self.yaml else { return None };
        value.as_str()
    }

    pub(super) fn to_json(&self) -> Value {
        match &self.yaml {
            Yaml::Scalar(value) => value.clone(),
            Yaml::List(items) => items.iter().map(Node::to_json).collect(),
            Yaml::Map(entries) => {
                entries.iter().map(|(key, node)| (key.name.clone(), node.to_json())).collect()
            }
        }
    }

    /// The entries of a map; nothing at all counts as an empty map, anything else is a fault.
    pub(super) fn entries(&self, what: &str, faults: &mut Vec<Fault>) -> &[(Key, Node)] {
        match &self.yaml {
            Yaml::Map(entries) => entries,
            Yaml::Scalar(Value::Null) => &[],
            _ => {
                faults.push(Fault::new(self.line, format!("`{what}` must be a map")));
                &[]
            }
        }
    }
}

impl<'de> Deserialize<'de> for Yaml {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Yaml;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a YAML value")
            }
            fn visit_bool<E>(self, v: bool) -> Result<Yaml, E> {
                Ok(Yaml::Scalar(v.into()))
            }
            fn visit_i64<E>(self, v: i64) -> Result<Yaml, E> {
                Ok(Yaml::Scalar(v.into()))
            }
            fn visit_u64<E>(self, v: u64) -> Result<Yaml, E> {
                Ok(Yaml::Scalar(v.into()))
            }
            fn visit_f64<E>(self, v: f64) -> Result<Yaml, E> {
                Ok(Yaml::Scalar(v.into()))
            }
            fn visit_str<E>(self, v: &str) -> Result<Yaml, E> {
                Ok(Yaml::Scalar(v.into()))
            }
            fn visit_unit<E>(self) -> Result<Yaml, E> {
                Ok(Yaml::Scalar(Value::Null))
            }
            fn visit_none<E>(self) -> Result<Yaml, E> {
                Ok(Yaml::Scalar(Value::Null))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Yaml, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element::<Spanned<Yaml>>()? {
                    items.push(item.into());
                }
                Ok(Yaml::List(items))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Yaml, A::Error> {
                let mut entries = Vec::new();
                while let Some((key, node)) = map.next_entry::<Spanned<String>, Spanned<Yaml>>()? {
                    entries.push((Key { line: line_of(&key), name: key.value }, node.into()));
                }
                Ok(Yaml::Map(entries))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

impl From<Spanned<Yaml>> for Node {
    fn from(spanned: Spanned<Yaml>) -> Self {
        Node { line: line_of(&spanned), yaml: spanned.value }
    }
}

fn line_of<T>(spanned: &Spanned<T>) -> usize {
    usize::try_from(spanned.referenced.line()).unwrap_or(0).max(1)
}

/// The crate is permissive by default; here anchors, merge keys, YAML 1.1 booleans and foreign tags are refused, and depth
/// and size are bounded: a head needs none of them, and each is a way to say something else than what one reads.
pub(super) fn parse(head: &str) -> Result<Node, Fault> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        strict_booleans: true,
        reject_unsupported_tags: true,
        merge_keys: serde_saphyr::options::MergeKeyPolicy::Error,
        budget: serde_saphyr::budget! { max_depth: 32, max_nodes: 4096, max_anchors: 0, max_aliases: 0 },
    };
    match serde_saphyr::from_str_with_options::<Spanned<Yaml>>(head, options) {
        Ok(node) => Ok(node.into()),
        Err(error) => {
            let line = error.location().and_then(|place| usize::try_from(place.line()).ok());
            let message = error.to_string();
            // The place is told by the fault's own line.
            let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(before, _)| before);
            Err(Fault::new(line.unwrap_or(1), format!("YAML: {message}")))
        }
    }
}

/// What the head says. `input` is always an object shape; without `input.schema` it has no fields.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) model: Option<String>,
    pub(super) description: Option<String>,
    pub(super) config: Map<String, Value>,
    pub(super) input: Shape,
    pub(super) defaults: Map<String, Value>,
}

impl Default for Head {
    fn default() -> Self {
        Head {
            model: None,
            description: None,
            config: Map::new(),
            input: Shape::of(Kind::Object { fields: Vec::new(), rest: None }),
            defaults: Map::new(),
        }
    }
}

/// `name` is the prompt's name by its file; a `name` in the head must agree with it.
pub(super) fn read(node: &Node, name: &str, faults: &mut Vec<Fault>) -> Head {
    let mut head = Head::default();
    for (key, node) in node.entries("front matter", faults) {
        match key.name.as_str() {
            "model" => head.model = string(key, node, faults),
            "description" => head.description = string(key, node, faults),
            "name" => {
                if string(key, node, faults).is_some_and(|given| given != name) {
                    faults.push(Fault::new(key.line, format!("`name` must be `{name}`, as the file is called")));
                }
            }
            "config" => head.config = config(node, faults),
            "input" => input(node, &mut head, faults),
            // These inform readers of the file and change nothing here.
            "variant" | "version" | "metadata" | "ext" => {}
            extension if extension.contains('.') => {}
            "output" | "tools" | "toolDefs" => {
                faults.push(Fault::new(key.line, format!("`{}` is not supported; send it with the request", key.name)));
            }
            other => faults.push(Fault::new(
                key.line,
                format!("unknown key `{other}` (there are model, description, config, input, name, variant, version, metadata)"),
            )),
        }
    }
    head
}

fn string(key: &Key, node: &Node, faults: &mut Vec<Fault>) -> Option<String> {
    let text = node.text().map(str::trim).filter(|text| !text.is_empty());
    if text.is_none() {
        faults.push(Fault::new(key.line, format!("`{}` must be a text", key.name)));
    }
    text.map(str::to_owned)
}

fn input(node: &Node, head: &mut Head, faults: &mut Vec<Fault>) {
    for (key, node) in node.entries("input", faults) {
        match key.name.as_str() {
            "schema" => head.input = schema::read(node, faults),
            "default" => {}
            other => faults.push(Fault::new(
                key.line,
                format!("unknown key `input.{other}` (there are schema, default)"),
            )),
        }
    }
    // Second, since it is checked against the schema wherever it stands.
    let Some(node) = node.get("default") else { return };
    for (key, node) in node.entries("input.default", faults) {
        let value = node.to_json();
        let problems = head.input.check_field(&key.name, &value);
        faults.extend(
            problems
                .iter()
                .map(|p| Fault::new(key.line, format!("input.default: `{}`: {}", p.variable, p.problem))),
        );
        head.defaults.insert(key.name.clone(), value);
    }
}

/// What a known sampling value must look like.
enum Wants {
    Between(f64, f64),
    Count,
    Whole,
    Texts,
    Free,
}

/// dotprompt's names, those of the OpenAI chat request, and what either holds.
const SAMPLING: [(&str, &str, Wants); 9] = [
    ("temperature", "temperature", Wants::Between(0.0, 2.0)),
    ("topP", "top_p", Wants::Between(0.0, 1.0)),
    ("topK", "top_k", Wants::Count),
    ("maxOutputTokens", "max_tokens", Wants::Count),
    ("stopSequences", "stop", Wants::Texts),
    ("presencePenalty", "presence_penalty", Wants::Between(-2.0, 2.0)),
    ("frequencyPenalty", "frequency_penalty", Wants::Between(-2.0, 2.0)),
    ("candidateCount", "n", Wants::Count),
    ("seed", "seed", Wants::Whole),
];

/// Fields of the request that are not sampling: a prompt that set them would override what the caller asked for.
const NOT_SAMPLING: [&str; 7] = ["model", "messages", "input", "stream", "prompt", "variables", "session"];

fn config(node: &Node, faults: &mut Vec<Fault>) -> Map<String, Value> {
    let mut config = Map::new();
    for (key, node) in node.entries("config", faults) {
        let known =
            SAMPLING.iter().find(|(dotprompt, openai, _)| key.name == *dotprompt || key.name == *openai);
        let (name, wants) =
            known.map_or((key.name.as_str(), &Wants::Free), |(_, openai, wants)| (openai, wants));
        let value = node.to_json();
        let whole = || value.as_i64().or_else(|| value.as_u64().map(|_| i64::MAX));
        let problem = match wants {
            Wants::Between(low, high) if !value.as_f64().is_some_and(|n| (*low..=*high).contains(&n)) => {
                Some(format!("must be a number from {low} to {high}"))
            }
            Wants::Count if whole().is_none_or(|n| n < 1) => {
                Some("must be a whole number, at least 1".to_owned())
            }
            Wants::Whole if whole().is_none() => Some("must be a whole number".to_owned()),
            Wants::Texts if !texts(&value) => Some("must be a text or a list of texts".to_owned()),
            Wants::Free if NOT_SAMPLING.contains(&name) => Some("is not for config to set".to_owned()),
            _ if config.contains_key(name) => {
                Some(format!("is given twice (it and another key both mean `{name}`)"))
            }
            _ => None,
        };
        match problem {
            Some(problem) => faults.push(Fault::new(key.line, format!("config: `{}` {problem}", key.name))),
            None => drop(config.insert(name.to_owned(), value)),
        }
    }
    config
}

fn texts(value: &Value) -> bool {
    value.is_string() || value.as_array().is_some_and(|list| list.iter().all(Value::is_string))
}
