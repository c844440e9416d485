//! The body of `/healthz` and `/readyz`.

use serde_json::{Value, json};

/// Whether all is well, and if not why: `{"status": "ok" | "failing", "reasons": […], "<role>": {…}}`.
#[derive(Debug)]
pub struct Report {
    reasons: Vec<String>,
    /// The role's name and how it stands.
    who: Option<(&'static str, Value)>,
}

impl Report {
    /// A report that fails for these reasons; well without any.
    pub fn new(reasons: Vec<String>) -> Self {
        Self { reasons, who: None }
    }

    /// Says how the process stands, under the name of its role.
    #[must_use]
    pub fn about(mut self, role: &'static str, standing: Value) -> Self {
        self.who = Some((role, standing));
        self
    }

    pub(crate) fn is_ok(&self) -> bool {
        self.reasons.is_empty()
    }

    /// One line.
    pub(crate) fn to_json(&self) -> String {
        let word = if self.is_ok() { "ok" } else { "failing" };
        let who = self.who.iter().map(|(role, standing)| format!(",\"{role}\":{standing}"));
        let who: String = who.collect();
        format!("{{\"status\":\"{word}\",\"reasons\":{}{who}}}\n", json!(self.reasons))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_is_wrong_and_who_it_is() {
        let well = Report::new(Vec::new());
        assert!(well.is_ok());
        assert_eq!(well.to_json(), "{\"status\":\"ok\",\"reasons\":[]}\n");
        let ill = Report::new(vec!["no leases".into()]).about("agent", json!({"session": 7}));
        let expected = r#"{"status":"failing","reasons":["no leases"],"agent":{"session":7}}"#;
        assert_eq!(ill.to_json(), format!("{expected}\n"));
    }
}
