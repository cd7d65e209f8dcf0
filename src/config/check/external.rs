//! Whether announced ports can stand for bound ones, and addresses can be followed.

use core::time::Duration;

use super::super::reader::diagnostic::{Diagnostic, Diagnostics};
use super::super::reader::value::{Auto, OffOr, quoted};
use super::super::sections::Raw;

/// Name servers and STUN servers are others'.
const SHORTEST: Duration = Duration::from_secs(5);

pub(super) fn check(raw: &Raw, d: &mut Diagnostics) {
    if let OffOr(Some(recheck)) = raw.external.recheck.value
        && recheck < SHORTEST
    {
        let diagnostic = Diagnostic::error("`external.recheck` is shorter than 5s").at(raw.external.recheck.place);
        d.push(diagnostic.help("the default is \"1m\"; \"off\" looks again at a reload only"));
    }
    let Auto::Given(announced) = &raw.external.ports.value else {
        return;
    };
    let bound = &raw.relay.ports;
    let problem = |d: &mut Diagnostics, message: String, help: String| {
        let diagnostic = Diagnostic::error(message).at(raw.external.ports.place);
        d.push(diagnostic.also(bound.place, "the bound ports").help(help));
    };
    let (first, count) = (*announced.0.start(), bound.value.count());
    if announced.count() != count {
        let message = format!(
            "`external.ports` has {} ports, `relay.ports` {count}: each stands for one",
            announced.count()
        );
        let fits = first.checked_add(bound.value.0.end() - bound.value.0.start());
        let help = fits.map_or_else(
            || "make both ranges as long as each other".to_owned(),
            |last| format!("for example {}", quoted(&format!("{first}-{last}"))),
        );
        problem(d, message, help);
    } else if first % 2 != bound.value.0.start() % 2 {
        let message =
            "`external.ports` and `relay.ports` must both begin with an even port, or both with an odd one".to_owned();
        let help = "clients may ask for an even port and the next (EVEN-PORT, RFC 8656 §7.2)".to_owned();
        problem(d, message, help);
    }
}
