//! What of JSON Schema the documents of this project use: a checker for tests.

use serde_json::{Value, json};

/// What in a value is not as its schema says. Fields that a schema does not tell of are faults, unless it says what others are.
pub(crate) fn faults(document: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = document.pointer(reference.trim_start_matches('#')).unwrap_or_else(|| panic!("no {reference}"));
        return faults(document, target, value, at);
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let all: Vec<_> = choices.iter().map(|choice| faults(document, choice, value, at)).collect();
        return if all.iter().any(Vec::is_empty) { Vec::new() } else { all.concat() };
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let mut found = Vec::new();
    let is_of = match &schema["type"] {
        Value::String(wanted) => wanted == kind,
        Value::Array(wanted) => wanted.contains(&json!(kind)),
        _ => true,
    };
    if !is_of {
        found.push(format!("{at}: {kind} in the place of {}", schema["type"]));
    }
    let is_one = schema["enum"].as_array().is_none_or(|all| all.contains(value));
    if !is_one || schema.get("const").is_some_and(|constant| constant != value) {
        found.push(format!("{at}: {value} is none of {}{}", schema["enum"], schema["const"]));
    }
    for (number, item) in value.as_array().into_iter().flatten().enumerate() {
        found.extend(faults(document, &schema["items"], item, &format!("{at}[{number}]")));
    }
    let others = &schema["additionalProperties"];
    if let Some(fields) = value.as_object().filter(|_| schema["properties"].is_object() || !others.is_null()) {
        let properties = schema["properties"].as_object();
        let missing = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
        found.extend(missing.filter(|name| !fields.contains_key(*name)).map(|name| format!("{at}.{name} is missing")));
        for (name, field) in fields {
            let told =
                properties.and_then(|properties| properties.get(name)).or(Some(others).filter(|all| all.is_object()));
            match told {
                Some(schema) => found.extend(faults(document, schema, field, &format!("{at}.{name}"))),
                None if *others == true => {}
                None => found.push(format!("{at}.{name} is not told")),
            }
        }
    }
    found
}
