//! Reads an operator's TOML file so that every problem in it is found in one pass, each with its line.
//!
//! serde stops at the first error. Here the file is parsed into the `toml` crate's spanned tree, and each field is asked for
//! by name: a field that is missing, of the wrong kind or unknown is noted, and reading goes on. [`Reader::finish`] gives the
//! problems, if any.
#![deny(clippy::wildcard_enum_match_arm, clippy::match_wildcard_for_single_variants)]

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use toml::de::{DeTable, DeValue};

use crate::problem::{Problem, Problems};

/// A file being read: its name, its text, and the problems found so far.
#[derive(Debug)]
pub struct Reader<'a> {
    file: &'a str,
    text: &'a str,
    problems: RefCell<Vec<Problem>>,
}

impl<'a> Reader<'a> {
    /// A reader of `text`; `file` is only what problems call it.
    pub fn new(file: &'a str, text: &'a str) -> Self {
        Self { file, text, problems: RefCell::default() }
    }

    /// Parses the text.
    ///
    /// # Errors
    /// With every syntax error of the file. Fields are not looked at then: what a broken file seems to say would mislead.
    pub fn parse(&self) -> Result<DeTable<'a>, Problems> {
        let (document, errors) = DeTable::parse_recoverable(self.text);
        if errors.is_empty() {
            return Ok(document.into_inner());
        }
        for error in errors {
            let offset = error.span().map_or(0, |span| span.start);
            self.note(offset, "", error.message().to_owned(), "see https://toml.io for the syntax".to_owned());
        }
        Err(self.take())
    }

    /// The top table of a parsed document.
    pub fn top(&'a self, document: &'a DeTable<'a>) -> Table<'a> {
        Table { reader: self, field: String::new(), offset: 0, table: document, known: RefCell::default() }
    }

    /// The problems found, by line; nothing if there are none.
    ///
    /// # Errors
    /// When anything was wrong.
    pub fn finish(&self) -> Result<(), Problems> {
        if self.problems.borrow().is_empty() { Ok(()) } else { Err(self.take()) }
    }

    /// Reads `schema` of the top table, which must be one this kiln knows.
    pub fn schema(&self, top: &Table<'_>, known: u64) {
        if let Some(item) = top.need("schema", &format!("write `schema = {known}` as the first line"))
            && let Some(given) = item.integer(0..=u64::from(u32::MAX))
            && given != known
        {
            item.problem(format!("schema {given} is not one this kiln knows"), format!("it knows schema {known}"));
        }
    }

    fn take(&self) -> Problems {
        let mut problems = std::mem::take(&mut *self.problems.borrow_mut());
        problems.sort();
        Problems(problems)
    }

    fn line(&self, offset: usize) -> usize {
        1 + self.text.bytes().take(offset).filter(|b| *b == b'\n').count()
    }

    fn describe(&self, offset: usize, field: &str, what: String, remedy: String) -> Problem {
        Problem { file: self.file.to_owned(), line: self.line(offset), field: field.to_owned(), what, remedy }
    }

    fn note(&self, offset: usize, field: &str, what: String, remedy: String) {
        let problem = self.describe(offset, field, what, remedy);
        self.problems.borrow_mut().push(problem);
    }
}

/// A table, asked for its fields by name. Call [`Table::finish`] last: it reports the fields nobody asked for.
#[derive(Debug)]
pub struct Table<'a> {
    reader: &'a Reader<'a>,
    field: String,
    offset: usize,
    table: &'a DeTable<'a>,
    known: RefCell<BTreeSet<String>>,
}

impl<'a> Table<'a> {
    /// The field `key`, if it is there.
    pub fn get(&self, key: &str) -> Option<Item<'a>> {
        self.known.borrow_mut().insert(key.to_owned());
        let (name, value) = self.table.get_key_value(key)?;
        Some(self.item(name.span().start, key, value.get_ref()))
    }

    /// The field `key`; its absence is a problem.
    pub fn need(&self, key: &str, remedy: &str) -> Option<Item<'a>> {
        let item = self.get(key);
        if item.is_none() {
            self.reader.note(self.offset, &self.path(key), "this field is missing".into(), remedy.into());
        }
        item
    }

    /// Every entry, for tables whose keys are names the operator chose.
    pub fn entries(&self) -> Vec<(&'a str, Item<'a>)> {
        self.table
            .iter()
            .map(|(name, value)| {
                let key: &'a str = name.get_ref();
                self.known.borrow_mut().insert(key.to_owned());
                (key, self.item(name.span().start, key, value.get_ref()))
            })
            .collect()
    }

    /// Notes a problem with the table as a whole.
    pub fn problem(&self, what: impl Into<String>, remedy: impl Into<String>) {
        self.reader.note(self.offset, &self.field, what.into(), remedy.into());
    }

    /// Reports every field that was not asked for.
    pub fn finish(self) {
        let known = self.known.borrow();
        for (name, _) in self.table.iter().filter(|(name, _)| !known.contains(name.get_ref().as_ref())) {
            let names: Vec<String> = known.iter().map(|k| format!("`{k}`")).collect();
            let remedy = match nearest(name.get_ref(), &known) {
                Some(near) => format!("did you mean `{near}`? Known here: {}", names.join(", ")),
                None => format!("known here: {}", names.join(", ")),
            };
            self.reader.note(name.span().start, &self.path(name.get_ref()), "unknown field".into(), remedy);
        }
    }

    fn path(&self, key: &str) -> String {
        if self.field.is_empty() { key.to_owned() } else { format!("{}.{key}", self.field) }
    }

    fn item(&self, offset: usize, key: &str, value: &'a DeValue<'a>) -> Item<'a> {
        Item { reader: self.reader, field: self.path(key), offset, value }
    }
}

/// One value with its place in the file.
#[derive(Clone, Debug)]
pub struct Item<'a> {
    reader: &'a Reader<'a>,
    field: String,
    offset: usize,
    value: &'a DeValue<'a>,
}

impl<'a> Item<'a> {
    /// Notes a problem here.
    pub fn problem(&self, what: impl Into<String>, remedy: impl Into<String>) {
        self.reader.note(self.offset, &self.field, what.into(), remedy.into());
    }

    /// A problem here that is not an error of the file: for warnings.
    pub fn warning(&self, what: impl Into<String>, remedy: impl Into<String>) -> Problem {
        self.reader.describe(self.offset, &self.field, what.into(), remedy.into())
    }

    /// Line of the value, counted from 1.
    pub fn line(&self) -> usize {
        self.reader.line(self.offset)
    }

    /// A string.
    pub fn text(&self) -> Option<&'a str> {
        if let DeValue::String(text) = self.value { Some(text) } else { self.wrong("a string") }
    }

    /// A string of a form that `T` defines.
    pub fn parse<T: FromStr<Err: Display>>(&self, remedy: &str) -> Option<T> {
        match self.text()?.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.problem(error.to_string(), remedy);
                None
            }
        }
    }

    /// One of a few words, each standing for a value.
    pub fn word<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let known: Vec<String> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
            self.problem(format!("`{text}` is not known here"), format!("use {}", known.join(" or ")));
        }
        found
    }

    /// A whole number in a range.
    pub fn integer(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let DeValue::Integer(number) = self.value else { return self.wrong("a whole number") };
        let value = u64::from_str_radix(number.as_str(), number.radix()).ok().filter(|n| range.contains(n));
        if value.is_none() {
            self.problem(
                format!("{number} is out of range"),
                format!("use a number from {} to {}", range.start(), range.end()),
            );
        }
        value
    }

    /// [`Item::integer`] as a 32 bit number.
    pub fn small_integer(&self, range: RangeInclusive<u32>) -> Option<u32> {
        let value = self.integer(u64::from(*range.start())..=u64::from(*range.end()))?;
        u32::try_from(value).ok()
    }

    /// `true` or `false`.
    pub fn boolean(&self) -> Option<bool> {
        if let DeValue::Boolean(value) = self.value { Some(*value) } else { self.wrong("true or false") }
    }

    /// The members of an array.
    pub fn items(&self) -> Option<Vec<Item<'a>>> {
        let DeValue::Array(array) = self.value else { return self.wrong("an array") };
        let item = |(i, value): (usize, &'a toml::Spanned<DeValue<'a>>)| Item {
            reader: self.reader,
            field: format!("{}[{}]", self.field, i + 1),
            offset: value.span().start,
            value: value.get_ref(),
        };
        Some(array.iter().enumerate().map(item).collect())
    }

    /// A table.
    pub fn table(&self) -> Option<Table<'a>> {
        let DeValue::Table(table) = self.value else { return self.wrong("a table") };
        let (reader, field, offset) = (self.reader, self.field.clone(), self.offset);
        Some(Table { reader, field, offset, table, known: RefCell::default() })
    }

    fn wrong<T>(&self, want: &str) -> Option<T> {
        let is = match self.value {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a fraction",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        };
        self.problem(format!("this is {is}"), format!("write {want}"));
        None
    }
}

/// The known name that a misspelt one most likely stands for: one edit away, or equal but for `-` and case.
fn nearest<'k>(name: &str, known: &'k BTreeSet<String>) -> Option<&'k str> {
    let plain = |text: &str| text.to_ascii_lowercase().replace('-', "_");
    let one_edit = |a: &str, b: &str| {
        let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
        let (short, long) = if a.len() <= b.len() { (&a, &b) } else { (&b, &a) };
        let head = short.iter().zip(long.iter()).take_while(|(x, y)| x == y).count();
        match long.len() - short.len() {
            0 => short[head..].get(1..) == long[head..].get(1..),
            1 => short[head..] == long[head + 1..],
            _ => false,
        }
    };
    known.iter().map(String::as_str).find(|k| plain(k) == plain(name) || one_edit(k, &plain(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<(usize, String, String)> {
        let reader = Reader::new("x.toml", text);
        let found = match reader.parse() {
            Err(problems) => problems,
            Ok(document) => {
                let top = reader.top(&document);
                reader.schema(&top, 1);
                top.need("name", "name it").and_then(|i| i.text());
                top.get("count").and_then(|i| i.integer(1..=3));
                for item in top.get("list").and_then(|i| i.items()).unwrap_or_default() {
                    item.parse::<std::net::IpAddr>("write an address");
                }
                top.finish();
                reader.finish().err().unwrap_or_default()
            }
        };
        found.0.into_iter().map(|p| (p.line, p.field, p.what)).collect()
    }

    fn at(line: usize, field: &str, what: &str) -> (usize, String, String) {
        (line, field.into(), what.into())
    }

    #[test]
    fn finds_everything_in_one_pass() {
        let text = "schema = 2\nname = 4\ncount = 9\nlist = [\n  '::1',\n  'x',\n]\nNAME = 1\nother = 2\n";
        let found = problems(text);
        assert_eq!(
            found,
            [
                at(1, "schema", "schema 2 is not one this kiln knows"),
                at(2, "name", "this is a whole number"),
                at(3, "count", "9 is out of range"),
                at(6, "list[2]", "invalid IP address syntax"),
                at(8, "NAME", "unknown field"),
                at(9, "other", "unknown field"),
            ]
        );
        assert_eq!(problems(""), [at(1, "name", "this field is missing"), at(1, "schema", "this field is missing")]);
    }

    #[test]
    fn reports_all_syntax_errors_and_then_no_fields() {
        let found = problems("schema = \nname = 'a'\nname = 'b'\nlist = [");
        let lines: Vec<usize> = found.iter().map(|(line, _, _)| *line).collect();
        assert_eq!(lines, [1, 3, 4]);
    }

    #[test]
    fn guesses_what_was_meant() {
        let known: BTreeSet<String> = ["address", "memory_mib", "mac"].map(str::to_owned).into();
        for (given, meant) in [("adress", "address"), ("memory-mib", "memory_mib"), ("Mac", "mac"), ("nac", "mac")] {
            assert_eq!(nearest(given, &known), Some(meant), "{given}");
        }
        assert_eq!(nearest("gateway", &known), None);
    }
}
