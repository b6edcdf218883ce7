//! Gemini's `Schema`, a dialect of OpenAPI 3.0's, as JSON Schema: types in lower case, `nullable` as a type, numbers
//! that proto JSON writes as strings as numbers.
//! Source: Google's API reference, "Schema".

use serde_json::{Map, Value};

/// Limits that are 64-bit integers, and so may come as strings.
const COUNTS: [(&str, &str); 6] = [
    ("minItems", "min_items"),
    ("maxItems", "max_items"),
    ("minLength", "min_length"),
    ("maxLength", "max_length"),
    ("minProperties", "min_properties"),
    ("maxProperties", "max_properties"),
];

pub fn json_schema(schema: &Value) -> Value {
    let Value::Object(fields) = schema else { return schema.clone() };
    let mut said = Map::new();
    for (name, value) in fields {
        match (name.as_str(), value) {
            ("type", Value::String(name)) if name == "TYPE_UNSPECIFIED" => {}
            ("type", Value::String(name)) => drop(said.insert("type".into(), name.to_lowercase().into())),
            ("properties", Value::Object(properties)) => {
                let inner = properties.iter().map(|(name, schema)| (name.clone(), json_schema(schema)));
                said.insert("properties".into(), Value::Object(inner.collect()));
            }
            ("items" | "additionalProperties", inner) => drop(said.insert(name.clone(), json_schema(inner))),
            ("anyOf" | "any_of", Value::Array(options)) => {
                said.insert("anyOf".into(), options.iter().map(json_schema).collect());
            }
            // The order of properties is that of the object.
            ("nullable" | "propertyOrdering" | "property_ordering", _) => {}
            (name, value) => {
                let count = COUNTS.iter().find(|(own, snake)| *own == name || *snake == name);
                let number = || value.as_str().and_then(|text| text.parse::<u64>().ok()).map(Value::from);
                match count {
                    Some((own, _)) => said.insert((*own).into(), number().unwrap_or_else(|| value.clone())),
                    None => said.insert(name.into(), value.clone()),
                };
            }
        }
    }
    if fields.get("nullable") == Some(&true.into()) { nullable(said) } else { Value::Object(said) }
}

fn nullable(mut said: Map<String, Value>) -> Value {
    if let Some(kind) = said.get_mut("type") {
        *kind = Value::Array(vec![kind.take(), "null".into()]);
        if let Some(Value::Array(options)) = said.get_mut("enum") {
            options.push(Value::Null);
        }
    } else if let Some(Value::Array(options)) = said.get_mut("anyOf") {
        options.push(serde_json::json!({"type": "null"}));
    }
    Value::Object(said)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn types_are_those_of_json_schema() {
        let gemini = json!({"type": "OBJECT", "title": "R", "required": ["a"], "property_ordering": ["a", "b"],
            "properties": {
                "a": {"type": "INTEGER", "format": "int32", "nullable": true},
                "b": {"type": "ARRAY", "items": {"type": "STRING", "enum": ["x"], "nullable": true}, "minItems": "1"},
                "type": {"anyOf": [{"type": "STRING"}, {"type": "NUMBER"}], "nullable": true}}});
        let expected = json!({"type": "object", "title": "R", "required": ["a"],
            "properties": {
                "a": {"type": ["integer", "null"], "format": "int32"},
                "b": {"type": "array", "items": {"type": ["string", "null"], "enum": ["x", null]}, "minItems": 1},
                "type": {"anyOf": [{"type": "string"}, {"type": "number"}, {"type": "null"}]}}});
        assert_eq!(json_schema(&gemini), expected);
    }
}
