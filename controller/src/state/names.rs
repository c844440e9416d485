//! What topics and groups may be called.

use super::reply::Refusal;

/// Longest topic, agent group or zone name, in bytes; Kafka's limit.
pub const MAX_NAME_BYTES: usize = 249;
/// Longest consumer group or producer name, in bytes.
pub const MAX_GROUP_BYTES: usize = 255;

/// Shortens a name for a message.
pub fn shown(name: &str) -> String {
    const SHOWN: usize = 40;
    if name.chars().count() <= SHOWN {
        return name.escape_debug().to_string();
    }
    let head: String = name.chars().take(SHOWN).collect();
    format!("{}… ({} bytes)", head.escape_debug(), name.len())
}

/// Kafka's rule for topic names: letters, digits, `.`, `_` and `-`, not `.`
/// nor `..`, 1 to 249 bytes.
pub fn check_name(kind: &str, name: &str) -> Result<(), Refusal> {
    let reason = if name.is_empty() {
        "is empty".to_owned()
    } else if name.len() > MAX_NAME_BYTES {
        format!("is longer than {MAX_NAME_BYTES} bytes")
    } else if name == "." || name == ".." {
        "is reserved".to_owned()
    } else if let Some(bad) =
        name.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')))
    {
        format!("holds {bad:?}; allowed are letters, digits, '.', '_' and '-'")
    } else {
        return Ok(());
    };
    Err(Refusal::Invalid(format!("{kind} name '{}' {reason}", shown(name))))
}

/// Consumer groups may be called anything without control characters.
pub fn check_group(name: &str) -> Result<(), Refusal> {
    check_free("group", name)
}

/// So may producers.
pub fn check_producer(name: &str) -> Result<(), Refusal> {
    check_free("producer", name)
}

fn check_free(kind: &str, name: &str) -> Result<(), Refusal> {
    let reason = if name.is_empty() {
        "is empty".to_owned()
    } else if name.len() > MAX_GROUP_BYTES {
        format!("is longer than {MAX_GROUP_BYTES} bytes")
    } else if name.chars().any(char::is_control) {
        "holds a control character".to_owned()
    } else {
        return Ok(());
    };
    Err(Refusal::Invalid(format!("{kind} name '{}' {reason}", shown(name))))
}
