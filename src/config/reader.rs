//! Reading a configuration: values with their places, from the file and the environment; all faults are kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use standin_foundation::PublicKey;
use toml::de::{DeTable, DeValue};

use super::{Fault, Setting, keys};

/// A file that is being read, with the environment on top, and what was found wrong so far.
pub(super) struct Reader<'a> {
    pub(super) path: &'a Path,
    pub(super) text: &'a str,
    pub(super) root: &'a DeTable<'a>,
    environment: BTreeMap<String, String>,
    pub(super) faults: Vec<Fault>,
    known: Vec<Known>,
}

/// A key that was asked for.
struct Known {
    section: &'static str,
    key: &'static str,
    /// What it is.
    value: Option<Value>,
    /// Where it is set; none where it is not.
    place: Option<String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        path: &'a Path,
        text: &'a str,
        root: &'a DeTable<'a>,
        environment: BTreeMap<String, String>,
    ) -> Self {
        Self { path, text, root, environment, faults: Vec::new(), known: Vec::new() }
    }

    /// The keys that were asked for, and what they are, by section and in the order in which they were asked for.
    pub(super) fn settings(&self) -> Vec<Setting> {
        let mut settings: Vec<Setting> = Vec::new();
        for Known { section, key, value, place } in &self.known {
            let name = format!("{section}.{key}");
            let value = value.as_ref().and_then(Value::as_toml);
            if let Some(value) = value.filter(|_| settings.iter().all(|setting| setting.key != name)) {
                settings.push(Setting { key: name, value, place: place.clone() });
            }
        }
        let order = |setting: &Setting| keys::KEYS.iter().position(|key| key.name == setting.key);
        settings.sort_by_key(order);
        settings
    }

    /// The names of the keys that were asked for.
    #[cfg(test)]
    pub(super) fn known(&self) -> impl Iterator<Item = String> {
        self.known.iter().map(|known| format!("{}.{}", known.section, known.key))
    }

    /// The value, and where it stands; none where it is not set, and is `default`.
    pub(super) fn value(
        &mut self,
        section: &'static str,
        key: &'static str,
        default: Option<Value>,
    ) -> Option<(Value, String)> {
        let found = self.find(section, key);
        let (value, place) = match found.clone() {
            Some((value, place)) => (Some(value), Some(place)),
            None => (default, None),
        };
        self.known.push(Known { section, key, value, place });
        found
    }

    fn find(&self, section: &str, key: &str) -> Option<(Value, String)> {
        let variable = variable(section, key);
        if let Some(value) = self.environment.get(&variable) {
            return Some((Value::of_text(value), variable));
        }
        let table = self.root.get(section)?;
        let DeValue::Table(table) = table.get_ref() else { return None };
        let value = table.get(key)?;
        Some((Value::of(value.get_ref()), place_of(self.path, self.text, Some(value.span()))))
    }

    /// Where the key is set that was asked for last.
    pub(super) fn place_of_last(&self) -> String {
        let place = self.known.last().and_then(|known| known.place.clone());
        place.unwrap_or_else(|| self.path.display().to_string())
    }

    pub(super) fn fault(&mut self, place: String, section: &str, key: &str, what: impl Into<String>) {
        self.faults.push(Fault { place, key: format!("{section}.{key}"), what: what.into() });
    }

    pub(super) fn missing(&mut self, section: &str, key: &str) {
        let place = self.path.display().to_string();
        self.fault(place, section, key, "is missing");
    }

    pub(super) fn text(&mut self, section: &'static str, key: &'static str, default: Option<&str>) -> String {
        match self.value(section, key, default.map(|default| Value::Text(default.to_owned()))) {
            Some((Value::Text(text), _)) => text,
            Some((other, place)) => {
                self.fault(place, section, key, format!("found {other}, a text in quotes is needed"));
                String::new()
            }
            None => {
                if default.is_none() {
                    self.missing(section, key);
                }
                default.unwrap_or_default().to_owned()
            }
        }
    }

    pub(super) fn file(&mut self, section: &'static str, key: &'static str) -> PathBuf {
        let text = self.text(section, key, None);
        self.path.parent().unwrap_or(Path::new(".")).join(text)
    }

    pub(super) fn optional_file(&mut self, section: &'static str, key: &'static str) -> Option<PathBuf> {
        let text = self.text(section, key, Some(""));
        (!text.is_empty()).then(|| self.path.parent().unwrap_or(Path::new(".")).join(text))
    }

    pub(super) fn parsed<T: FromStr<Err: fmt::Display>>(
        &mut self,
        section: &'static str,
        key: &'static str,
        needed: &str,
    ) -> Option<T> {
        let Some((value, place)) = self.value(section, key, None) else {
            self.missing(section, key);
            return None;
        };
        let Value::Text(text) = value else {
            self.fault(place, section, key, format!("found {value}, {needed} is needed"));
            return None;
        };
        match text.parse() {
            Ok(parsed) => Some(parsed),
            Err(error) => {
                self.fault(place, section, key, format!("found \"{text}\", {needed} is needed ({error})"));
                None
            }
        }
    }

    /// Names, with commas; none if the key is not there.
    pub(super) fn names(&mut self, section: &'static str, key: &'static str) -> Vec<String> {
        let text = self.text(section, key, Some(""));
        text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
    }

    /// Public keys, with commas.
    pub(super) fn keys(&mut self, section: &'static str, key: &'static str) -> BTreeSet<PublicKey> {
        let text = self.text(section, key, Some(""));
        let mut keys = BTreeSet::new();
        for one in text.split(',').map(str::trim).filter(|one| !one.is_empty()) {
            match one.parse() {
                Ok(parsed) => _ = keys.insert(parsed),
                Err(error) => {
                    let what = format!("found \"{one}\", public keys are needed, with commas ({error})");
                    self.fault(self.path.display().to_string(), section, key, what);
                }
            }
        }
        keys
    }

    pub(super) fn address(&mut self, section: &'static str, key: &'static str) -> SocketAddr {
        let parsed = self.parsed(section, key, "an address such as \"127.0.0.1:7001\"");
        parsed.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    pub(super) fn number(
        &mut self,
        section: &'static str,
        key: &'static str,
        allowed: std::ops::RangeInclusive<u64>,
        default: Option<u64>,
    ) -> u64 {
        let (value, place) = match self.value(section, key, default.map(Value::Number)) {
            Some(found) => found,
            None => return default.unwrap_or_default(),
        };
        match value {
            Value::Number(number) if allowed.contains(&number) => number,
            other => {
                let (low, high) = (allowed.start(), allowed.end());
                self.fault(place, section, key, format!("found {other}, a number from {low} to {high} is needed"));
                default.unwrap_or_default()
            }
        }
    }

    pub(super) fn flag(&mut self, section: &'static str, key: &'static str, default: bool) -> bool {
        match self.value(section, key, Some(Value::Flag(default))) {
            Some((Value::Flag(flag), _)) => flag,
            None => default,
            Some((other, place)) => {
                self.fault(place, section, key, format!("found {other}, true or false is needed"));
                default
            }
        }
    }

    pub(super) fn find_unknown(&mut self) {
        let mut unknown = Vec::new();
        for (section, table) in self.root.iter() {
            let name: &str = section.get_ref();
            match table.get_ref() {
                _ if name == "peer" => {}
                DeValue::Table(table) if self.known.iter().any(|known| known.section == name) => {
                    for (key, _) in table.iter() {
                        let key_name: &str = key.get_ref();
                        let keys = self.known.iter().filter(|known| known.section == name).map(|known| known.key);
                        if !keys.clone().any(|known| known == key_name) {
                            unknown.push((key.span(), format!("{name}.{key_name}"), suggestion(key_name, keys)));
                        }
                    }
                }
                _ => {
                    let sections = self.known.iter().map(|known| known.section).chain(["peer"]);
                    unknown.push((section.span(), name.to_owned(), suggestion(name, sections)));
                }
            }
        }
        for (span, key, what) in unknown {
            self.faults.push(Fault { place: place_of(self.path, self.text, Some(span)), key, what });
        }
        let mut environment = std::mem::take(&mut self.environment);
        environment.retain(|name, _| !self.known.iter().any(|known| variable(known.section, known.key) == *name));
        for variable in environment.into_keys() {
            self.faults.push(Fault { place: variable.clone(), key: variable, what: "names no known key".to_owned() });
        }
    }
}

/// The environment's name of a key.
fn variable(section: &str, key: &str) -> String {
    format!("STANDIN__{}__{}", section.to_uppercase(), key.to_uppercase())
}

/// File, line and column.
pub(super) fn place_of(path: &Path, text: &str, span: Option<Range<usize>>) -> String {
    let before = text.get(..span.map_or(0, |span| span.start)).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    format!("{}:{line}:{column}", path.display())
}

fn suggestion<'a>(found: &str, known: impl Iterator<Item = &'a str>) -> String {
    let near = known.map(|known| (strsim::damerau_levenshtein(found, known), known)).min();
    match near {
        Some((distance, known)) if distance <= 3 => format!("is not known; did you mean `{known}`?"),
        _ => "is not known".to_owned(),
    }
}

/// A value, as far as the configuration knows kinds of them.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Text(String),
    Number(u64),
    Flag(bool),
    Other(&'static str),
}

impl Value {
    fn of(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::String(text) => Self::Text(text.to_string()),
            DeValue::Integer(number) => u64::from_str_radix(&number.as_str().replace('_', ""), number.radix())
                .map_or(Self::Other("a number that does not fit"), Self::Number),
            DeValue::Boolean(flag) => Self::Flag(*flag),
            DeValue::Float(_) => Self::Other("a number with a fraction"),
            DeValue::Array(_) => Self::Other("a list"),
            DeValue::Table(_) => Self::Other("a table"),
            DeValue::Datetime(_) => Self::Other("a date"),
        }
    }

    fn as_toml(&self) -> Option<toml::Value> {
        match self {
            Self::Text(text) => Some(text.clone().into()),
            Self::Number(number) => i64::try_from(*number).ok().map(toml::Value::from),
            Self::Flag(flag) => Some((*flag).into()),
            Self::Other(_) => None,
        }
    }

    fn of_text(text: &str) -> Self {
        match (text.parse(), text.parse()) {
            (Ok(number), _) => Self::Number(number),
            (_, Ok(flag)) => Self::Flag(flag),
            _ => Self::Text(text.to_owned()),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "\"{text}\""),
            Self::Number(number) => write!(f, "{number}"),
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Other(what) => f.write_str(what),
        }
    }
}
