//! The official schema of the API, and whether a request keeps to it: path and verb, every parameter's name, type, form and bounds.

use std::collections::BTreeMap;

use serde_json::Value;

/// Parameters of a request, by name.
pub(crate) type Parameters = BTreeMap<String, String>;

/// The schema.
#[derive(Debug)]
pub(crate) struct Schema(Vec<(String, Value)>);

/// A method that a request was found to mean, with the variables of its path.
#[derive(Debug)]
pub(crate) struct Method<'s> {
    /// The path with names of variables, `/nodes/{node}/qemu`.
    pub(crate) path: &'s str,
    /// Variables of the path and parameters together, as Proxmox sees them.
    pub(crate) parameters: Parameters,
    /// Which privileges it asks for.
    pub(crate) check: Option<&'s Value>,
}

/// Why a request is not one the API takes: status, and what is wrong with which parameter.
pub(crate) type Wrong = (u16, BTreeMap<String, String>);

impl Schema {
    /// The schema beside this file.
    pub(crate) fn official() -> Self {
        let schema: Value = serde_json::from_str(include_str!("schema.json")).unwrap();
        let paths = schema["paths"].as_array().unwrap();
        Self(paths.iter().map(|p| (p["path"].as_str().unwrap().to_owned(), p["info"].clone())).collect())
    }

    /// Finds the method of a request and checks its parameters.
    ///
    /// # Errors
    /// With the API's answer to what it does not take.
    pub(crate) fn check(&self, verb: &str, path: &[String], given: &Parameters) -> Result<Method<'_>, Wrong> {
        let none = |what: String| (501, BTreeMap::from([("path".to_owned(), what)]));
        let found = self.0.iter().find_map(|(template, info)| Some((template, info, variables(template, path)?)));
        let (template, info, mut parameters) =
            found.ok_or_else(|| none(format!("no such path: /{}", path.join("/"))))?;
        let method = &info[verb];
        if !method.is_object() {
            return Err(none(format!("Method '{verb} {template}' not implemented")));
        }
        if method["allowtoken"] != 1 {
            return Err((403, BTreeMap::from([("token".into(), "API tokens may not call this".into())])));
        }
        let mut wrong = BTreeMap::new();
        for (name, value) in given {
            if parameters.insert(name.clone(), value.clone()).is_some() {
                wrong.insert(name.clone(), "duplicate parameter (already defined in URI)".to_owned());
            }
        }
        let properties = &method["parameters"]["properties"];
        for (name, value) in &parameters {
            match property(properties, name) {
                None => {
                    wrong.insert(
                        name.clone(),
                        "property is not defined in schema and the schema does not allow additional properties".into(),
                    );
                }
                Some(rule) => {
                    if let Err(what) = fits(rule, value) {
                        wrong.insert(name.clone(), what);
                    }
                    if let Some(other) = rule["requires"].as_str().filter(|other| !parameters.contains_key(*other)) {
                        wrong.insert(name.clone(), format!("missing property - '{name}' requires '{other}'"));
                    }
                }
            }
        }
        for (name, rule) in properties.as_object().into_iter().flatten() {
            if rule["optional"] != 1 && !name.ends_with("[n]") && !parameters.contains_key(name) {
                wrong.insert(name.clone(), "property is missing and it is not optional".into());
            }
        }
        if !wrong.is_empty() {
            return Err((400, wrong));
        }
        Ok(Method { path: template, parameters, check: method["permissions"].get("check") })
    }
}

/// The variables of a path that a template matches.
fn variables(template: &str, path: &[String]) -> Option<Parameters> {
    let parts: Vec<&str> = template.split('/').skip(1).collect();
    if parts.len() != path.len() {
        return None;
    }
    let mut found = Parameters::new();
    for (part, given) in parts.iter().zip(path) {
        match part.strip_prefix('{').and_then(|p| p.strip_suffix('}')) {
            Some(name) => {
                found.insert(name.to_owned(), given.clone());
            }
            None if part == given => {}
            None => return None,
        }
    }
    Some(found)
}

/// The rule of a property; `virtio3` is `virtio[n]`.
fn property<'s>(properties: &'s Value, name: &str) -> Option<&'s Value> {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let numbered = (stem != name).then(|| properties.get(format!("{stem}[n]"))).flatten();
    properties.get(name).or(numbered)
}

/// Whether a value is what a rule says.
fn fits(rule: &Value, value: &str) -> Result<(), String> {
    if value.is_empty() {
        return Err("value is empty: leave the parameter out".into());
    }
    let number = |what: &str| -> Result<f64, String> {
        value.parse().map_err(|_| format!("type check ('{what}') failed - got '{value}'"))
    };
    match rule["type"].as_str().unwrap_or("string") {
        "integer" => {
            value.parse::<i64>().map_err(|_| format!("type check ('integer') failed - got '{value}'"))?;
            bounds(rule, number("integer")?)?;
        }
        "number" => bounds(rule, number("number")?)?,
        "boolean" if !["0", "1"].contains(&value) => {
            return Err(format!("type check ('boolean') failed - got '{value}'"));
        }
        "boolean" => {}
        "string" => {}
        other => return Err(format!("the checker does not know the type '{other}'")),
    }
    if rule["maxLength"].as_u64().is_some_and(|most| value.len() as u64 > most) {
        return Err(format!("value may only be {} characters long", rule["maxLength"]));
    }
    if let Some(words) = rule["enum"].as_array()
        && !words.iter().any(|w| w == value)
    {
        return Err(format!("value '{value}' does not have a value in the enumeration '{words:?}'"));
    }
    if let Some(pattern) = rule["pattern"].as_str()
        && !matches(pattern, value)?
    {
        return Err("value does not match the regex pattern".into());
    }
    match &rule["format"] {
        Value::String(name) => format(name, value),
        Value::Object(_) => property_string(&rule["format"], value),
        _ => Ok(()),
    }
}

fn bounds(rule: &Value, number: f64) -> Result<(), String> {
    if rule["minimum"].as_f64().is_some_and(|least| number < least) {
        return Err(format!("value must have a minimum value of {}", rule["minimum"]));
    }
    if rule["maximum"].as_f64().is_some_and(|most| number > most) {
        return Err(format!("value must have a maximum value of {}", rule["maximum"]));
    }
    Ok(())
}

/// `a,b=c`: each part by its own rule.
fn property_string(rules: &Value, value: &str) -> Result<(), String> {
    let mut seen = BTreeMap::new();
    for part in value.split(',') {
        let (key, text) = match part.split_once('=') {
            Some((key, text)) => (key.to_owned(), text),
            None => {
                let default = rules.as_object().unwrap().iter().find(|(_, rule)| rule["default_key"] == 1);
                (
                    default
                        .ok_or_else(|| {
                            format!("value without key, but schema does not define a default key: '{part}'")
                        })?
                        .0
                        .clone(),
                    part,
                )
            }
        };
        let mut rule = rules
            .get(&key)
            .ok_or_else(|| format!("invalid format - format error: {key}: property is not defined in schema"))?;
        // `virtio=MAC` is `model=virtio,macaddr=MAC`.
        if let Some(key_alias) = rule["keyAlias"].as_str() {
            seen.insert(key_alias.to_owned(), ());
        }
        let mut name = key.clone();
        if let Some(alias) = rule["alias"].as_str() {
            rule = &rules[alias];
            name = alias.to_owned();
        }
        if seen.insert(name.clone(), ()).is_some() {
            return Err(format!("invalid format - duplicate key in comma-separated list property: {name}"));
        }
        fits(rule, text).map_err(|what| format!("invalid format - {key}: {what}"))?;
    }
    for (name, rule) in rules.as_object().unwrap() {
        let alias = rule["alias"].is_string();
        if !alias && rule["optional"] != 1 && rule["default_key"] == 1 && !seen.contains_key(name) {
            return Err(format!("invalid format - {name}: property is missing and it is not optional"));
        }
    }
    Ok(())
}

fn all(value: &str, more: &[u8]) -> bool {
    !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || more.contains(&b))
}

/// The few patterns that kiln's parameters meet; another one is an error of the checker, and never "fits".
fn matches(pattern: &str, value: &str) -> Result<bool, String> {
    match pattern {
        "(/dev/.+|socket)" => Ok(value == "socket" || value.starts_with("/dev/")),
        machine if machine.contains("q35") => Ok(value == "q35"),
        other => Err(format!("the checker does not know the pattern '{other}'")),
    }
}

fn format(name: &str, value: &str) -> Result<(), String> {
    let volume =
        |text: &str| text.split_once(':').is_some_and(|(storage, rest)| all(storage, b"-_.") && all(rest, b"-_./=+"));
    let list = |separators: &[char], one: &str| value.split(separators).try_for_each(|part| format(one, part));
    let fields = |known: &[&str]| {
        value.split(',').all(|p| p.split_once('=').is_some_and(|(k, v)| known.contains(&k) && !v.is_empty()))
    };
    let sound = match name {
        "pve-vmid" => value.parse::<u32>().is_ok_and(|n| n >= 100),
        "pve-node" => all(value, b"-"),
        "pve-storage-id" => all(value, b"-_.") && value.starts_with(|c: char| c.is_ascii_alphabetic()),
        "pve-poolid" => all(value, b"-_./"),
        "pve-configid" => all(value, b"-_"),
        "pve-configid-list" => return list(&[',', ';', ' '], "pve-configid"),
        "pve-storage-content" => {
            ["images", "rootdir", "vztmpl", "iso", "backup", "snippets", "import", "none"].contains(&value)
        }
        "pve-storage-content-list" => return list(&[','], "pve-storage-content"),
        "pve-tag-list" => {
            return value.split([';', ',', ' ']).try_for_each(|tag| {
                let sound = all(tag, b"-_+.") && !tag.starts_with(['-', '+', '.']) && tag == tag.to_lowercase();
                sound.then_some(()).ok_or_else(|| format!("invalid characters in tag '{tag}'"))
            });
        }
        "dns-name" => {
            value.split('.').all(|label| all(label, b"-") && !label.starts_with('-') && !label.ends_with('-'))
        }
        "pve-bridge-id" => all(value, b"-_.") && value.len() <= 15,
        "mac-addr" => {
            let parts: Vec<&str> = value.split(':').collect();
            parts.len() == 6 && parts.iter().all(|p| p.len() == 2 && u8::from_str_radix(p, 16).is_ok())
        }
        "urlencoded" => all(value, b"-_.~%"),
        // `STORE:8` and `STORE:0` are the special syntax for a new volume; a path is for root alone.
        "pve-volume-id-or-qm-path" => volume(value),
        "pve-volume-id-or-absolute-path" if value.starts_with('/') => {
            return Err("Only root can pass arbitrary filesystem paths.".into());
        }
        "pve-volume-id" | "pve-volume-id-or-absolute-path" => volume(value),
        "pve-qm-smbios1" => {
            fields(&["base64", "family", "manufacturer", "product", "serial", "sku", "uuid", "version"]) && {
                let get = |key: &str| value.split(',').find_map(|p| p.strip_prefix(key)?.strip_prefix('='));
                get("uuid").is_none_or(|u| u.len() == 36 && all(u, b"-"))
                    && get("serial").is_none_or(|s| get("base64") == Some("1") && all(s, b"+/="))
            }
        }
        "pve-qm-boot" => value.strip_prefix("order=").is_some_and(|order| order.split(';').all(|d| all(d, b""))),
        "pve-qm-rng" => ["source=/dev/urandom", "source=/dev/random"].contains(&value),
        "pve-vm-cpu-conf" => all(value, b"-_."),
        other => return Err(format!("the checker does not know the format '{other}'")),
    };
    sound.then_some(()).ok_or_else(|| format!("invalid format - value does not look like a valid {name}: '{value}'"))
}
