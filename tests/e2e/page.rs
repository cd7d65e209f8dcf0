//! The page (`page.html`) in any browser.

use serde_json::Value;

pub(crate) const PAGE: &str = include_str!("page.html");
pub(crate) const PAGE_PORT: u16 = 8080;
/// Origin of the page, which the relay's API must allow.
pub(crate) const ORIGIN: &str = "http://localhost:8080";

/// The functions of a browser, or of another stack, that a test uses.
pub(crate) trait Page {
    /// Calls a function of the page, awaits its promise, and returns the value.
    fn call_page(&mut self, function: &str, arguments: &[&Value]) -> Value;

    /// Errors and warnings of the page and the browser so far.
    fn console(&self) -> String;
}

/// `function(arguments)` in the page's language.
pub(crate) fn call_expression(function: &str, arguments: &[&Value]) -> String {
    let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
    format!("{function}({})", arguments.join(", "))
}
