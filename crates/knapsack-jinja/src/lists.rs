//! The filters that work on lists and dictionaries.

use crate::error::{Error, Result};
use crate::interpreter::{Given, Interpreter};
use crate::methods::int;
use crate::text::Text;
use crate::value::Value;
use std::cmp::Ordering;

impl Interpreter<'_> {
    pub(crate) fn list_filter(&mut self, name: &str, value: Value, given: Given) -> Result<Value> {
        match name {
            "list" => {
                let items = self.iterate(&value)?;
                self.list(items)
            }
            "items" => match value {
                Value::Dict(id) => self.dict_parts(id, "items"),
                Value::Undefined(_) => self.list(Vec::new()),
                other => Err(Error::operation(format!("items wants a dict, not {}", other.type_name()))),
            },
            "first" | "last" => {
                let items = self.iterate(&value)?;
                let item = if name == "first" { items.first() } else { items.last() };
                Ok(item.cloned().unwrap_or_else(|| Value::Undefined(format!("the {name} item of nothing").into())))
            }
            "reverse" => match &value {
                Value::Text(text) => {
                    self.budget.bytes(text.len() * 2)?;
                    let mut out = Text::default();
                    for (at, character) in text.as_str().char_indices().rev() {
                        out.push_slice(text, at..at + character.len_utf8());
                    }
                    self.text(out)
                }
                other => {
                    let mut items = self.iterate(other)?;
                    items.reverse();
                    self.list(items)
                }
            },
            "map" => self.map(&value, given),
            "select" | "reject" | "selectattr" | "rejectattr" => self.select(name, &value, given),
            "sort" => {
                let [reverse, case, attribute] = given.bind(name, ["reverse", "case_sensitive", "attribute"])?;
                let (reverse, case) = (reverse.is_some_and(|v| self.truth(&v)), case.is_some_and(|v| self.truth(&v)));
                let items = self.iterate(&value)?;
                let items = self.sorted(items, attribute.as_ref(), case, reverse)?;
                self.list(items)
            }
            "unique" => {
                let [case, attribute] = given.bind(name, ["case_sensitive", "attribute"])?;
                let case = case.is_some_and(|v| self.truth(&v));
                let (mut kept, mut keys) = (Vec::new(), indexmap::IndexSet::new());
                for item in self.iterate(&value)? {
                    let key = self.sort_key(&item, attribute.as_ref(), case)?;
                    if keys.insert(self.key(&key)?) {
                        kept.push(item);
                    }
                }
                self.list(kept)
            }
            "min" | "max" => {
                let [case, attribute] = given.bind(name, ["case_sensitive", "attribute"])?;
                let case = case.is_some_and(|v| self.truth(&v));
                let items = self.iterate(&value)?;
                let wanted = if name == "min" { Ordering::Less } else { Ordering::Greater };
                let mut best: Option<(Value, Value)> = None;
                for item in items {
                    let key = self.sort_key(&item, attribute.as_ref(), case)?;
                    let better = match &best {
                        None => true,
                        Some((_, known)) => self.order(&key, known)? == Some(wanted),
                    };
                    if better {
                        best = Some((item, key));
                    }
                }
                Ok(best.map_or_else(|| Value::Undefined(format!("the {name} of nothing").into()), |(item, _)| item))
            }
            "sum" => {
                let [attribute, start] = given.bind(name, ["attribute", "start"])?;
                let mut sum = start.unwrap_or(Value::Int(0));
                for item in self.iterate(&value)? {
                    let item = match &attribute {
                        Some(attribute) => self.path(&item, attribute)?,
                        None => item,
                    };
                    sum = self.binary(crate::ast::Operator::Add, &sum, &item)?;
                }
                Ok(sum)
            }
            "dictsort" => self.dict_sort(&value, given),
            "groupby" => self.group_by(&value, given),
            "batch" => self.batch(&value, given),
            "slice" => self.slices(&value, given),
            other => Err(Error::operation(format!("no filter is named {other:.40}"))),
        }
    }

    /// What an item is compared by: itself or an attribute, and text without regard to case unless asked for.
    fn sort_key(&mut self, item: &Value, attribute: Option<&Value>, case: bool) -> Result<Value> {
        let key = match attribute {
            Some(Value::None) | None => item.clone(),
            Some(attribute) => self.path(item, attribute)?,
        };
        match &key {
            Value::Text(text) if !case => self.cased(&text.clone(), "lower"),
            _ => Ok(key),
        }
    }

    /// Stable, and without an order that the library's sort would rely on: comparing may fail, and NaN has none.
    fn sorted(
        &mut self,
        items: Vec<Value>,
        attribute: Option<&Value>,
        case: bool,
        reverse: bool,
    ) -> Result<Vec<Value>> {
        let mut keyed = Vec::with_capacity(items.len());
        for item in items {
            keyed.push((self.sort_key(&item, attribute, case)?, item));
        }
        let before = if reverse { Ordering::Greater } else { Ordering::Less };
        let mut width = 1;
        while width < keyed.len() {
            let mut merged = Vec::with_capacity(keyed.len());
            for pair in keyed.chunks(2 * width) {
                let (left, right) = pair.split_at(width.min(pair.len()));
                let (mut i, mut j) = (0, 0);
                while i < left.len() || j < right.len() {
                    let take_right =
                        i == left.len() || j < right.len() && self.order(&right[j].0, &left[i].0)? == Some(before);
                    if take_right {
                        merged.push(right[j].clone());
                        j += 1;
                    } else {
                        merged.push(left[i].clone());
                        i += 1;
                    }
                }
            }
            keyed = merged;
            width *= 2;
        }
        Ok(keyed.into_iter().map(|(_, item)| item).collect())
    }

    fn map(&mut self, value: &Value, mut given: Given) -> Result<Value> {
        // Of what counts as false Jinja makes nothing, none and undefined variables among it.
        if !self.truth(value) {
            return self.list(Vec::new());
        }
        let items = self.iterate(value)?;
        let attribute = given.named.iter().position(|(name, _)| &**name == "attribute");
        let mut made = Vec::with_capacity(items.len());
        if let Some(at) = attribute {
            let (_, attribute) = given.named.remove(at);
            let [default] = given.bind("map", ["default"])?;
            for item in items {
                let found = self.path(&item, &attribute)?;
                made.push(match &default {
                    Some(default) if found.is_undefined() => default.clone(),
                    _ => found,
                });
            }
        } else {
            if given.positional.is_empty() {
                return Err(Error::operation("map wants a filter or an attribute"));
            }
            let Value::Text(filter) = given.positional.remove(0) else {
                return Err(Error::operation("map wants the name of a filter"));
            };
            for item in items {
                let given = Given { positional: given.positional.clone(), named: given.named.clone() };
                self.budget.down()?;
                made.push(self.filter(filter.as_str(), item, given)?);
                self.budget.up();
            }
        }
        self.list(made)
    }

    fn select(&mut self, name: &str, value: &Value, mut given: Given) -> Result<Value> {
        if !self.truth(value) {
            return self.list(Vec::new());
        }
        let wanted = name.starts_with("select");
        let by_attribute = name.ends_with("attr");
        let attribute = match by_attribute {
            true if given.positional.is_empty() => return Err(Error::operation(format!("{name} wants an attribute"))),
            true => Some(given.positional.remove(0)),
            false => None,
        };
        let test = match given.positional.is_empty() {
            true => None,
            false => match given.positional.remove(0) {
                Value::Text(test) => Some(test),
                _ => return Err(Error::operation(format!("{name} wants the name of a test"))),
            },
        };
        let mut kept = Vec::new();
        for item in self.iterate(value)? {
            let subject = match &attribute {
                Some(attribute) => self.path(&item, attribute)?,
                None => item.clone(),
            };
            let holds = match &test {
                Some(test) => {
                    let given = Given { positional: given.positional.clone(), named: given.named.clone() };
                    self.test(test.as_str(), &subject, given)?
                }
                None => self.truth(&subject),
            };
            if holds == wanted {
                kept.push(item);
            }
        }
        self.list(kept)
    }

    fn dict_sort(&mut self, value: &Value, given: Given) -> Result<Value> {
        let [case, by, reverse] = given.bind("dictsort", ["case_sensitive", "by", "reverse"])?;
        let (case, reverse) = (case.is_some_and(|v| self.truth(&v)), reverse.is_some_and(|v| self.truth(&v)));
        let Value::Dict(id) = value else {
            return Err(Error::operation(format!("dictsort wants a dict, not {}", value.type_name())));
        };
        let at = match by.as_ref().and_then(Value::as_str).unwrap_or("key") {
            "key" => 0,
            "value" => 1,
            _ => return Err(Error::operation("dictsort sorts by key or value")),
        };
        let items = self.dict_parts(*id, "items")?;
        let items = self.iterate(&items)?;
        let items = self.sorted(items, Some(&Value::Int(at)), case, reverse)?;
        self.list(items)
    }

    fn group_by(&mut self, value: &Value, given: Given) -> Result<Value> {
        let [attribute, default, case] = given.bind("groupby", ["attribute", "default", "case_sensitive"])?;
        let attribute = attribute.ok_or_else(|| Error::operation("groupby wants an attribute"))?;
        let case = case.is_some_and(|v| self.truth(&v));
        let mut keyed = Vec::new();
        for item in self.iterate(value)? {
            let key = match (self.path(&item, &attribute)?, &default) {
                (Value::Undefined(_), Some(default)) => default.clone(),
                (key, _) => key,
            };
            keyed.push(self.tuple(vec![key, item])?);
        }
        let keyed = self.sorted(keyed, Some(&Value::Int(0)), case, false)?;
        let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
        for pair in keyed {
            let [key, item] = &self.iterate(&pair)?[..] else { continue };
            let same = match groups.last() {
                Some((known, _)) => {
                    let known = self.sort_key(&known.clone(), None, case)?;
                    let key = self.sort_key(key, None, case)?;
                    self.equal(&known, &key)?
                }
                None => false,
            };
            match groups.last_mut() {
                Some((_, items)) if same => items.push(item.clone()),
                _ => groups.push((key.clone(), vec![item.clone()])),
            }
        }
        let mut made = Vec::with_capacity(groups.len());
        for (key, items) in groups {
            let items = self.list(items)?;
            made.push(self.tuple(vec![key, items])?);
        }
        self.list(made)
    }

    fn batch(&mut self, value: &Value, given: Given) -> Result<Value> {
        let [count, fill] = given.bind("batch", ["linecount", "fill_with"])?;
        let count = positive("batch", count.as_ref())?;
        let items = self.iterate(value)?;
        let mut made = Vec::new();
        for part in items.chunks(count) {
            let mut part = part.to_vec();
            if let Some(fill) = fill.as_ref().filter(|fill| !matches!(fill, Value::None)) {
                self.budget.bytes((count - part.len()).saturating_mul(48))?;
                part.resize(count, fill.clone());
            }
            made.push(self.list(part)?);
        }
        self.list(made)
    }

    fn slices(&mut self, value: &Value, given: Given) -> Result<Value> {
        let [count, fill] = given.bind("slice", ["slices", "fill_with"])?;
        let count = positive("slice", count.as_ref())?;
        let items = self.iterate(value)?;
        self.budget.bytes(count.saturating_mul(48))?;
        let (each, longer) = (items.len() / count, items.len() % count);
        let mut made = Vec::with_capacity(count);
        let mut from = 0;
        for index in 0..count {
            let to = from + each + usize::from(index < longer);
            let mut part = items[from..to].to_vec();
            if let Some(fill) =
                fill.as_ref().filter(|fill| !matches!(fill, Value::None) && index >= longer && longer > 0)
            {
                part.push(fill.clone());
            }
            made.push(self.list(part)?);
            from = to;
        }
        self.list(made)
    }
}

fn positive(name: &str, value: Option<&Value>) -> Result<usize> {
    match int(name, value)?.and_then(|count| usize::try_from(count).ok()) {
        Some(count) if count > 0 => Ok(count),
        _ => Err(Error::operation(format!("{name} wants a number above 0"))),
    }
}
