//! The footer's extension area: how the format grows without a new version.

use super::ObjectError;
use super::wire::Reader;

/// In an extension's flags: a reader that does not know the tag must refuse the object.
const REQUIRED: u8 = 1;

/// Tag, flags and length in front of an extension's bytes.
const ENTRY_BYTES: usize = 7;

/// One entry of the extension area. Version 1 defines no tag; entries that are not required are kept as they are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Extension {
    /// What it is.
    pub tag: u16,
    /// Whether a reader that does not know the tag must refuse the object.
    pub required: bool,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// How long the area's entries are, without the length in front of them.
pub(super) fn area_bytes(extensions: &[Extension]) -> usize {
    extensions.iter().map(|extension| ENTRY_BYTES + extension.bytes.len()).sum()
}

pub(super) fn encode_area(extensions: &[Extension], buffer: &mut Vec<u8>) {
    buffer.extend_from_slice(&(area_bytes(extensions) as u32).to_le_bytes());
    for extension in extensions {
        buffer.extend_from_slice(&extension.tag.to_le_bytes());
        buffer.push(if extension.required { REQUIRED } else { 0 });
        buffer.extend_from_slice(&(extension.bytes.len() as u32).to_le_bytes());
        buffer.extend_from_slice(&extension.bytes);
    }
}

/// Reads the area. All tags are unknown to version 1, so the first required one is refused.
pub(super) fn decode_area(reader: &mut Reader<'_>) -> Result<Vec<Extension>, ObjectError> {
    let length = reader.u32()? as usize;
    let mut area = Reader::new("extension area of the footer", reader.take(length)?);
    let mut extensions = Vec::new();
    while !area.is_empty() {
        let tag = area.u16()?;
        let flags = area.u8()?;
        let length = area.u32()? as usize;
        let bytes = area.take(length)?.to_vec();
        if flags & !REQUIRED != 0 {
            return Err(ObjectError::Unknown { field: "extension flags", found: flags.into() });
        }
        if flags & REQUIRED != 0 {
            return Err(ObjectError::RequiredExtension { tag });
        }
        extensions.push(Extension { tag, required: false, bytes });
    }
    Ok(extensions)
}
