//! A number of bytes, as people write it.

use std::num::NonZeroUsize;

use bytesize::ByteSize;

/// `4096`, `64KiB`, `8MiB`, `1.5GiB`. What `64K` or `64KB` is, people do not agree on.
pub(crate) fn size<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    let binary = text.to_ascii_lowercase().ends_with("ib");
    let wrong = || "is no number of bytes; a number alone is, or one with KiB, MiB, GiB".to_owned();
    let bytes = match binary {
        true => text.parse::<ByteSize>().map_err(|_| wrong())?.as_u64(),
        false => text.parse().map_err(|_| wrong())?,
    };
    let counted = T::try_from(bytes).ok().filter(|_| bytes < u64::MAX);
    counted.ok_or_else(|| "is more than this machine can count".to_owned())
}

/// One that is not 0.
pub(crate) fn some_size(text: &str) -> Result<NonZeroUsize, String> {
    NonZeroUsize::new(size(text)?).ok_or_else(|| "must be more than 0".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_number_that_may_have_a_unit() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64KiB", 64 << 10),
            ("64 KiB", 64 << 10),
            ("8mib", 8 << 20),
            ("1.5GiB", 3 << 29),
        ] {
            assert_eq!(size::<u64>(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "MiB", "-1", "0.5", "64K", "64KB", "8 apples", "1e400"] {
            assert!(size::<u64>(wrong).unwrap_err().contains("no number of bytes"), "{wrong}");
        }
        assert!(size::<u32>("4GiB").is_err());
        assert!(size::<u64>("99999999999GiB").is_err());
        assert!(some_size("0").is_err());
    }
}
