//! Answers in XML.

use quick_xml::Reader;
use quick_xml::events::Event;

/// Elements inside elements inside elements: deeper is no answer of a store.
const MAX_DEPTH: usize = 32;

/// Gives `visit` every element that begins, with its place (names without prefixes, the root first) and no text, and every one that ends,
/// with its text. `None`: it is not XML, or `visit` does not like it.
pub(crate) fn walk(text: &[u8], mut visit: impl FnMut(&[&str], Option<&str>) -> Option<()>) -> Option<()> {
    let mut reader = Reader::from_str(std::str::from_utf8(text).ok()?.trim_start_matches('\u{feff}'));
    let (mut path, mut text) = (Vec::<String>::new(), String::new());
    let mut tell =
        |path: &[String], text: Option<&str>| visit(&path.iter().map(String::as_str).collect::<Vec<_>>(), text);
    loop {
        match reader.read_event().ok()? {
            Event::Start(tag) if path.len() < MAX_DEPTH => {
                path.push(tag.local_name().into_inner().to_owned());
                text.clear();
                tell(&path, None)?;
            }
            Event::Start(_) => return None,
            Event::Text(piece) => text.push_str(&piece.xml10_content()),
            Event::GeneralRef(name) => text.push(match &*name {
                "amp" => '&',
                "lt" => '<',
                "gt" => '>',
                "quot" => '"',
                "apos" => '\'',
                _ => name.resolve_char_ref().ok()??,
            }),
            Event::End(_) => {
                tell(&path, Some(&text))?;
                text.clear();
                path.pop()?;
            }
            Event::Eof => return path.is_empty().then_some(()),
            _ => {}
        }
    }
}
