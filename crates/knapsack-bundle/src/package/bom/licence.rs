//! Licences: the hub writes SPDX's identifiers in small letters, and has words of its own for what SPDX does not list.

use super::cyclonedx::{Licence, LicenceChoice};

/// The SPDX identifiers among the hub's words for licences (<https://huggingface.co/docs/hub/repositories-licenses>), as SPDX
/// writes them.
const SPDX: &[&str] = &[
    "AFL-3.0",
    "AGPL-3.0",
    "Apache-2.0",
    "Artistic-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSD-3-Clause-Clear",
    "BSL-1.0",
    "CC-BY-2.0",
    "CC-BY-2.5",
    "CC-BY-3.0",
    "CC-BY-4.0",
    "CC-BY-NC-2.0",
    "CC-BY-NC-3.0",
    "CC-BY-NC-4.0",
    "CC-BY-NC-ND-3.0",
    "CC-BY-NC-ND-4.0",
    "CC-BY-NC-SA-2.0",
    "CC-BY-NC-SA-3.0",
    "CC-BY-NC-SA-4.0",
    "CC-BY-ND-4.0",
    "CC-BY-SA-3.0",
    "CC-BY-SA-4.0",
    "CC0-1.0",
    "CDLA-Permissive-1.0",
    "CDLA-Permissive-2.0",
    "CDLA-Sharing-1.0",
    "ECL-2.0",
    "EPL-1.0",
    "EPL-2.0",
    "EUPL-1.1",
    "EUPL-1.2",
    "GPL-2.0",
    "GPL-3.0",
    "ISC",
    "LGPL-2.1",
    "LGPL-3.0",
    "LPPL-1.3c",
    "MIT",
    "MPL-2.0",
    "MS-PL",
    "NCSA",
    "OFL-1.1",
    "OSL-3.0",
    "PostgreSQL",
    "Unlicense",
    "WTFPL",
    "Zlib",
    "etalab-2.0",
];

/// By its identifier where SPDX has one, else by its name.
pub(super) fn choice(name: &str) -> LicenceChoice {
    let id = SPDX.iter().find(|id| id.eq_ignore_ascii_case(name));
    LicenceChoice { license: id.map_or_else(|| Licence::Name(name.to_owned()), |id| Licence::Id(id)) }
}
