//! Lists of objects, which come in pages.

use crate::xml::walk;
use knapsack_bundle::cache::{Object, StoreError};
use std::time::SystemTime;

/// Longest page that is read, most objects that are listed, and most pages without any in a row.
pub(crate) const MAX_PAGE: u64 = 8 << 20;
const MAX_OBJECTS: usize = 1_000_000;
const MAX_EMPTY: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) objects: Vec<Object>,
    /// What asks for the next one.
    pub(crate) next: Option<String>,
}

/// All objects of all pages, named as they are below `prefix`.
pub(crate) fn all(
    prefix: &str,
    page: &mut dyn FnMut(Option<&str>) -> Result<Page, StoreError>,
) -> Result<Vec<Object>, StoreError> {
    let (mut objects, mut token, mut empty) = (Vec::new(), None::<String>, 0);
    loop {
        let Page { objects: found, next } = page(token.as_deref())?;
        empty = if found.is_empty() { empty + 1 } else { 0 };
        objects.extend(found.into_iter().filter_map(|object| {
            let name = object.name.strip_prefix(prefix)?.to_owned();
            Some(Object { name, ..object })
        }));
        match next {
            None => return Ok(objects),
            next if objects.len() > MAX_OBJECTS || empty > MAX_EMPTY || next == token => {
                return Err(StoreError::new("its list of objects does not end"));
            }
            next => token = next,
        }
    }
}

/// What a list that cannot be read is.
pub(crate) fn unreadable() -> StoreError {
    StoreError::new("its list of objects cannot be read")
}

/// Where the parts of a page lie in XML, below the root.
pub(crate) struct Shape {
    pub(crate) object: &'static [&'static str],
    /// These below an object.
    pub(crate) name: &'static [&'static str],
    pub(crate) size: &'static [&'static str],
    pub(crate) modified: &'static [&'static str],
    pub(crate) next: &'static [&'static str],
}

impl Page {
    pub(crate) fn of_xml(text: &[u8], shape: &Shape) -> Option<Self> {
        let mut page = Self::default();
        walk(text, |path, text| {
            let below = path.get(1..)?;
            let Some(text) = text else {
                if below == shape.object {
                    page.objects.push(Object { name: String::new(), size: 0, modified: None });
                }
                return Some(());
            };
            if below == shape.next && !text.is_empty() {
                page.next = Some(text.to_owned());
            }
            if let (Some(part), Some(object)) = (below.strip_prefix(shape.object), page.objects.last_mut()) {
                if part == shape.name {
                    text.clone_into(&mut object.name);
                } else if part == shape.size {
                    object.size = text.trim().parse().ok()?;
                } else if part == shape.modified {
                    object.modified = moment(text.trim());
                }
            }
            Some(())
        })?;
        Some(page)
    }
}

/// As RFC 3339 has it, or HTTP.
fn moment(text: &str) -> Option<SystemTime> {
    let time = chrono::DateTime::parse_from_rfc3339(text).or_else(|_| chrono::DateTime::parse_from_rfc2822(text));
    time.ok().map(SystemTime::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(number: usize, objects: usize) -> Page {
        let object = |index| Object { name: format!("p/{number}/{index}"), size: 1, modified: None };
        Page { objects: (0..objects).map(object).collect(), next: Some((number + 1).to_string()) }
    }

    #[test]
    fn lists_end() {
        let pages = |last: usize, objects: usize| {
            let mut number = 0;
            all("p/", &mut |token| {
                assert_eq!(token.map_or(Ok(0), str::parse), Ok(number));
                number += 1;
                let page = page(number - 1, objects);
                Ok(Page { next: page.next.filter(|_| number < last), ..page })
            })
        };
        let names: Vec<_> = pages(2, 1).unwrap().into_iter().map(|object| object.name).collect();
        assert_eq!(names, ["0/0", "1/0"]);
        assert!(pages(10, 0).unwrap().is_empty(), "pages may be empty");
        assert!(pages(usize::MAX, 0).unwrap_err().problem.contains("does not end"));
        assert!(pages(usize::MAX, 1000).unwrap_err().problem.contains("does not end"));
        let same = all("", &mut |_| Ok(Page { next: Some("1".into()), ..page(0, 1) }));
        assert!(same.unwrap_err().problem.contains("does not end"));
    }
}
