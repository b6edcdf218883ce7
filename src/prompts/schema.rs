//! What values a prompt's variables may have: Picoschema or plain JSON Schema, read into a [`Shape`], and values checked
//! against it.
//!
//! Only what can be checked is accepted: a keyword that this module would have to ignore is a fault when the file is read,
//! not a constraint that is never enforced. Schemas come from `front_matter`, values from `Library::render`.

use serde_json::{Map, Value};

use super::front_matter::{Key, Node, Yaml};
use super::{Fault, Problem};

/// A caller who sends a thousand wrong items learns enough from the first ones.
const MAX_PROBLEMS: usize = 32;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Shape {
    pub(super) kind: Kind,
    pub(super) nullable: bool,
    pub(super) description: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    Any,
    Null,
    String,
    Number,
    Integer,
    Boolean,
    Enum(Vec<Value>),
    Array(Box<Shape>),
    /// `rest` is the shape of fields that are not listed; without it there are none.
    Object {
        fields: Vec<Field>,
        rest: Option<Box<Shape>>,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) required: bool,
    pub(super) shape: Shape,
}

impl Shape {
    pub(super) fn of(kind: Kind) -> Shape {
        Shape { kind, nullable: false, description: None }
    }

    pub(super) fn fields(&self) -> &[Field] {
        if let Kind::Object { fields, .. } = &self.kind { fields } else { &[] }
    }

    /// As told to people: `string`, `array of string`, `one of "short", "long"`.
    pub(super) fn name(&self) -> String {
        match &self.kind {
            Kind::Any => "any".to_owned(),
            Kind::Null => "null".to_owned(),
            Kind::String => "string".to_owned(),
            Kind::Number => "number".to_owned(),
            Kind::Integer => "integer".to_owned(),
            Kind::Boolean => "boolean".to_owned(),
            Kind::Enum(values) => {
                let shown: Vec<String> =
                    values.iter().filter(|v| !v.is_null()).map(Value::to_string).collect();
                format!("one of {}", shown.join(", "))
            }
            Kind::Array(item) => format!("array of {}", item.name()),
            Kind::Object { .. } => "object".to_owned(),
        }
    }

    /// Everything that is wrong with `value`; empty if nothing is.
    pub(super) fn check(&self, value: &Value) -> Vec<Problem> {
        let mut problems = Vec::new();
        self.check_at("", value, &mut problems);
        problems
    }

    /// The same for one field of an object, so that a default can be checked without the others.
    pub(super) fn check_field(&self, name: &str, value: &Value) -> Vec<Problem> {
        let mut problems = self.check(&Value::Object(Map::from_iter([(name.to_owned(), value.clone())])));
        let inside = |rest: &str| rest.is_empty() || rest.starts_with(['.', '[']);
        problems.retain(|problem| problem.variable.strip_prefix(name).is_some_and(inside));
        problems
    }

    fn check_at(&self, path: &str, value: &Value, problems: &mut Vec<Problem>) {
        if problems.len() >= MAX_PROBLEMS || (value.is_null() && self.nullable) {
            return;
        }
        let fits = match (&self.kind, value) {
            (Kind::Any, _) | (Kind::Null, Value::Null) | (Kind::String, Value::String(_)) => true,
            (Kind::Number, Value::Number(_)) | (Kind::Boolean, Value::Bool(_)) => true,
            // JSON Schema counts 3.0 as an integer.
            (Kind::Integer, Value::Number(n)) => n.as_f64().is_some_and(|n| n.fract() == 0.0),
            (Kind::Enum(values), value) => values.contains(value),
            (Kind::Array(item), Value::Array(list)) => {
                for (n, value) in list.iter().enumerate() {
                    item.check_at(&format!("{path}[{n}]"), value, problems);
                }
                true
            }
            (Kind::Object { fields, rest }, Value::Object(map)) => {
                check_fields(path, fields, rest.as_deref(), map, problems);
                true
            }
            _ => false,
        };
        if !fits {
            let problem = format!("expected {}, got {}", self.name(), told(value));
            problems.push(Problem { variable: path.to_owned(), problem });
        }
    }

    /// Optional fields that are absent become null, since strict rendering refuses to look up what is not there.
    pub(super) fn complete(&self, value: &mut Value) {
        match (&self.kind, value) {
            (Kind::Array(item), Value::Array(list)) => list.iter_mut().for_each(|value| item.complete(value)),
            (Kind::Object { fields, rest }, Value::Object(map)) => {
                for field in fields {
                    field.shape.complete(map.entry(field.name.as_str()).or_insert(Value::Null));
                }
                if let Some(rest) = rest {
                    let others = map.iter_mut().filter(|(name, _)| !fields.iter().any(|f| f.name == **name));
                    others.for_each(|(_, value)| rest.complete(value));
                }
            }
            _ => {}
        }
    }
}

fn check_fields(
    path: &str,
    fields: &[Field],
    rest: Option<&Shape>,
    map: &Map<String, Value>,
    problems: &mut Vec<Problem>,
) {
    // A caller's own key may be as long as a request.
    let at = |name: &str| {
        let short: String = name.chars().take(80).collect();
        if path.is_empty() { short } else { format!("{path}.{short}") }
    };
    for field in fields {
        match map.get(&field.name) {
            Some(value) => field.shape.check_at(&at(&field.name), value, problems),
            None if field.required => {
                let problem = format!("missing (expected {})", field.shape.name());
                problems.push(Problem { variable: at(&field.name), problem });
            }
            None => {}
        }
    }
    for (name, value) in map.iter().filter(|(name, _)| !fields.iter().any(|f| f.name == **name)) {
        match rest {
            Some(rest) => rest.check_at(&at(name), value, problems),
            None if problems.len() < MAX_PROBLEMS => {
                problems.push(Problem { variable: at(name), problem: "unknown".to_owned() });
            }
            None => {}
        }
    }
}

/// A short scalar as it is, else its type: the message goes back to the caller and should stay readable.
fn told(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::String(text) if text.len() > 40 => "a longer string".to_owned(),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::String(text) => format!("string {text:?}"),
        Value::Number(n) => format!("number {n}"),
        Value::Bool(b) => format!("boolean {b}"),
    }
}

/// `input.schema`: JSON Schema if it has `type` or `properties` as JSON Schema would, else Picoschema, as in dotprompt.
pub(super) fn read(node: &Node, faults: &mut Vec<Fault>) -> Shape {
    let typed = node
        .get("type")
        .and_then(Node::text)
        .is_some_and(|t| matches!(t, "object" | "array") || scalar(t).is_some());
    let json = typed || node.get("properties").is_some_and(|p| matches!(p.yaml, Yaml::Map(_)));
    let mut shape = if json { json_schema(node, faults) } else { pico(node, faults) };
    match &mut shape.kind {
        Kind::Object { rest, .. } => {
            // JSON Schema leaves objects open by default, but a variable that no one named is a caller's mistake.
            if json && node.get("additionalProperties").is_none() {
                *rest = None;
            }
        }
        _ => {
            faults.push(Fault::new(
                node.line,
                "`input.schema` must describe an object: its fields are the variables",
            ));
            shape = Shape::of(Kind::Object { fields: Vec::new(), rest: None });
        }
    }
    shape
}

fn scalar(name: &str) -> Option<Kind> {
    Some(match name {
        "any" => Kind::Any,
        "null" => Kind::Null,
        "string" => Kind::String,
        "number" => Kind::Number,
        "integer" => Kind::Integer,
        "boolean" => Kind::Boolean,
        _ => return None,
    })
}

/// `string, what it is for` → the type and its description.
fn described(text: &str) -> (&str, Option<String>) {
    match text.split_once(',') {
        Some((kind, text)) => (kind.trim(), Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
        None => (text.trim(), None),
    }
}

fn pico(node: &Node, faults: &mut Vec<Fault>) -> Shape {
    match &node.yaml {
        Yaml::Scalar(Value::String(text)) => {
            let (name, description) = described(text);
            let kind = scalar(name).unwrap_or_else(|| {
                let known = "string, number, integer, boolean, any, null";
                faults.push(Fault::new(
                    node.line,
                    format!("schema: unknown type `{name}` (there are {known})"),
                ));
                Kind::Any
            });
            Shape { description, ..Shape::of(kind) }
        }
        Yaml::Map(entries) => {
            let mut fields: Vec<Field> = Vec::new();
            let mut rest = None;
            for (key, node) in entries {
                if key.name == "(*)" {
                    rest = Some(Box::new(pico(node, faults)));
                } else {
                    let field = pico_field(key, node, faults);
                    push_field(&mut fields, field, key.line, faults);
                }
            }
            Shape::of(Kind::Object { fields, rest })
        }
        _ => {
            faults.push(Fault::new(
                node.line,
                "schema: expected a type, as in `name: string`, or a map of fields",
            ));
            Shape::of(Kind::Any)
        }
    }
}

/// `name`, `name?`, `name(array)`, `name?(enum, what it is for)`.
fn pico_field(key: &Key, node: &Node, faults: &mut Vec<Fault>) -> Field {
    let (name, form) = match key.name.split_once('(') {
        Some((name, form)) => (name.trim(), Some(form)),
        None => (key.name.trim(), None),
    };
    let optional = name.ends_with('?');
    let name = name.trim_end_matches('?').to_owned();
    let mut shape = match form.map(|form| described(form.strip_suffix(')').unwrap_or(form))) {
        None => pico(node, faults),
        Some((form, description)) => {
            let shape = match form {
                "array" => Shape::of(Kind::Array(Box::new(pico(node, faults)))),
                "object" if matches!(node.yaml, Yaml::Map(_)) => pico(node, faults),
                "enum" => enumeration(node, faults),
                _ => {
                    let message = format!(
                        "schema: `{}`: the brackets hold array, object (with a map) or enum",
                        key.name
                    );
                    faults.push(Fault::new(key.line, message));
                    Shape::of(Kind::Any)
                }
            };
            Shape { description, ..shape }
        }
    };
    shape.nullable |= optional;
    Field { name, required: !optional, shape }
}

fn enumeration(node: &Node, faults: &mut Vec<Fault>) -> Shape {
    match node.to_json() {
        Value::Array(values) if !values.is_empty() => {
            Shape { nullable: values.contains(&Value::Null), ..Shape::of(Kind::Enum(values)) }
        }
        _ => {
            faults.push(Fault::new(node.line, "schema: an enum is a list of the values it allows"));
            Shape::of(Kind::Any)
        }
    }
}

fn push_field(fields: &mut Vec<Field>, field: Field, line: usize, faults: &mut Vec<Fault>) {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '$');
    let name = &field.name;
    let word = matches!(name.as_str(), "this" | "else" | "as" | "true" | "false" | "null");
    if word || !name.chars().all(legal) || name.starts_with(|c: char| c.is_ascii_digit()) || name.is_empty() {
        faults.push(Fault::new(
            line,
            format!("schema: `{name}` cannot be a name here; use letters, digits, _ and -"),
        ));
    } else if super::template::is_helper(name) {
        faults.push(Fault::new(
            line,
            format!("schema: `{name}` is the name of a template helper; choose another"),
        ));
    } else if fields.iter().any(|other| other.name == *name) {
        faults.push(Fault::new(line, format!("schema: `{name}` is there twice")));
    } else {
        fields.push(field);
    }
}

fn json_schema(node: &Node, faults: &mut Vec<Fault>) -> Shape {
    let mut described = None;
    for (key, node) in node.entries("input.schema", faults) {
        match key.name.as_str() {
            "description" => described = node.text().map(str::to_owned),
            "type" | "properties" | "required" | "items" | "enum" | "additionalProperties" => {}
            "title" | "examples" | "$schema" | "$id" | "$comment" => {}
            "default" => faults.push(Fault::new(key.line, "schema: put defaults under `input.default`")),
            other => faults.push(Fault::new(key.line, format!("schema: `{other}` is not supported"))),
        }
    }
    let mut shape = match node.get("enum") {
        Some(values) => enumeration(values, faults),
        None => typed(node, faults),
    };
    shape.description = described;
    shape
}

fn typed(node: &Node, faults: &mut Vec<Fault>) -> Shape {
    let names: Vec<Value> = match node.get("type").map(Node::to_json) {
        Some(Value::Array(names)) => names,
        Some(name) => vec![name],
        None if node.get("properties").is_some() => vec!["object".into()],
        None => vec!["any".into()],
    };
    let nullable = names.len() > 1 && names.contains(&"null".into());
    let kinds: Vec<&str> =
        names.iter().filter_map(Value::as_str).filter(|name| !nullable || *name != "null").collect();
    let kind = match kinds.as_slice() {
        ["object"] => object(node, faults),
        ["array"] => {
            let item = node.get("items").map_or(Shape::of(Kind::Any), |items| json_schema(items, faults));
            Kind::Array(Box::new(item))
        }
        [name] if scalar(name).is_some() => scalar(name).unwrap_or(Kind::Any),
        _ => {
            faults
                .push(Fault::new(node.line, "schema: `type` must be one JSON Schema type, or one and null"));
            Kind::Any
        }
    };
    Shape { nullable, ..Shape::of(kind) }
}

fn object(node: &Node, faults: &mut Vec<Fault>) -> Kind {
    let required: Vec<String> = match node.get("required").map(|list| (list.line, list.to_json())) {
        None => Vec::new(),
        Some((_, Value::Array(names))) => names.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        Some((line, _)) => {
            faults.push(Fault::new(line, "schema: `required` must be a list of names"));
            Vec::new()
        }
    };
    let mut fields = Vec::new();
    if let Some(properties) = node.get("properties") {
        for (key, node) in properties.entries("properties", faults) {
            let required = required.contains(&key.name);
            let shape = json_schema(node, faults);
            push_field(&mut fields, Field { name: key.name.clone(), required, shape }, key.line, faults);
        }
    }
    for name in required.iter().filter(|name| !fields.iter().any(|field| field.name == **name)) {
        faults.push(Fault::new(
            node.line,
            format!("schema: `{name}` is required, but not among the properties"),
        ));
    }
    let rest = match node.get("additionalProperties") {
        Some(Node { yaml: Yaml::Scalar(Value::Bool(false)), .. }) => None,
        Some(schema @ Node { yaml: Yaml::Map(_), .. }) => Some(Box::new(json_schema(schema, faults))),
        _ => Some(Box::new(Shape::of(Kind::Any))),
    };
    Kind::Object { fields, rest }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::prompts::front_matter::parse;

    fn shape(yaml: &str) -> Result<Shape, Vec<String>> {
        let mut faults = Vec::new();
        let shape = read(&parse(yaml).unwrap(), &mut faults);
        if faults.is_empty() {
            Ok(shape)
        } else {
            Err(faults.iter().map(|f| format!("{}: {}", f.line, f.message)).collect())
        }
    }

    fn problems(shape: &Shape, value: &Value) -> Vec<String> {
        shape.check(value).iter().map(|p| format!("{}: {}", p.variable, p.problem)).collect()
    }

    #[test]
    fn picoschema_and_json_schema_say_the_same() {
        let pico = "s: string, a text\nn?: number\nl(array, some): {k: integer}\ne?(enum): [a, 1]\no(object): {b: boolean, (*): any}\n";
        let json = "type: object\nproperties:\n  s: {type: string, description: a text}\n  n: {type: [number, 'null']}\n\
                    \x20 l: {type: array, description: some, items: {type: object, properties: {k: {type: integer}}, required: [k], additionalProperties: false}}\n\
                    \x20 e: {enum: [a, 1, null]}\n  o: {type: object, properties: {b: {type: boolean}}, required: [b]}\nrequired: [s, l, o]\n";
        let (pico, json) = (shape(pico).unwrap(), shape(json).unwrap());
        let names = |shape: &Shape| -> Vec<_> {
            let field = |f: &Field| (f.name.clone(), f.required, f.shape.name(), f.shape.description.clone());
            shape.fields().iter().map(field).collect()
        };
        assert_eq!(names(&pico), names(&json));
        for (value, expected) in [
            (json!({"s": "x", "l": [{"k": 1.0}], "o": {"b": true, "more": 1}, "e": "a", "n": null}), vec![]),
            (json!({"s": "x", "l": [], "o": {"b": true}, "e": null}), vec![]),
            (
                json!({"l": [{"k": 1.5}, {"j": 1}], "o": [], "e": "b"}),
                vec![
                    "s: missing (expected string)",
                    "l[0].k: expected integer, got number 1.5",
                    "l[1].k: missing (expected integer)",
                    "l[1].j: unknown",
                    "e: expected one of \"a\", 1, got string \"b\"",
                    "o: expected object, got an array",
                ],
            ),
            (
                json!({"s": null, "l": [], "o": {"b": true}, "x": 1}),
                vec!["s: expected string, got null", "x: unknown"],
            ),
        ] {
            assert_eq!(problems(&pico, &value), expected);
            assert_eq!(problems(&json, &value), expected);
        }
    }

    #[test]
    fn optional_fields_are_completed_at_every_depth() {
        let shape = shape("a?: string\nl(array): {b?: string}\n(*): {c?: any}").unwrap();
        let mut value = json!({"l": [{}, {"b": "x"}], "more": {}});
        shape.complete(&mut value);
        assert_eq!(value, json!({"a": null, "l": [{"b": null}, {"b": "x"}], "more": {"c": null}}));
    }

    #[test]
    fn faults_have_lines() {
        for (yaml, expected) in [
            (
                "a: string\nb: text",
                "2: schema: unknown type `text` (there are string, number, integer, boolean, any, null)",
            ),
            ("a: 3", "1: schema: expected a type, as in `name: string`, or a map of fields"),
            ("a(list): string", "1: schema: `a(list)`: the brackets hold array, object (with a map) or enum"),
            ("a(enum): x", "1: schema: an enum is a list of the values it allows"),
            ("a: string\na?: string", "2: schema: `a` is there twice"),
            ("history: string", "1: schema: `history` is the name of a template helper; choose another"),
            ("a b: string", "1: schema: `a b` cannot be a name here; use letters, digits, _ and -"),
            ("type: string", "1: `input.schema` must describe an object: its fields are the variables"),
            (
                "type: object\nproperties:\n  a:\n    type: string\n    pattern: x",
                "5: schema: `pattern` is not supported",
            ),
            ("type: object\nrequired: [a]", "1: schema: `a` is required, but not among the properties"),
            (
                "type: object\nproperties: {a: {type: [string, number]}}",
                "2: schema: `type` must be one JSON Schema type, or one and null",
            ),
            ("string", "1: `input.schema` must describe an object: its fields are the variables"),
        ] {
            assert_eq!(shape(yaml).unwrap_err(), [expected], "{yaml}");
        }
    }
}
