//! Bar charts as SVG: simple enough to write by hand, and readable where a repository serves the
//! images.

use std::fmt::Write as _;

use super::cases::{CASES, Figure};
use super::results::Results;
use super::servers::{ALL, Server};

const WIDTH: f64 = 860.0;
/// Left end of the bars; names are left of it.
const LEFT: f64 = 400.0;
/// Right end of the longest bar; figures are right of it.
const RIGHT: f64 = 780.0;
const BAR: f64 = 14.0;
const GAP: f64 = 10.0;
const TOP: f64 = 44.0;

struct Bar {
    value: f64,
    text: String,
    color: &'static str,
}

/// Cost of a packet, a handshake and an allocation, as a fraction of coturn's.
pub(super) fn ratios(results: &Results) -> String {
    let groups = CASES.iter().filter_map(|case| {
        let ratio = results.ratio(case, Server::Coturn)?;
        let bar = Bar {
            value: ratio,
            text: format!("{ratio:.1} ×"),
            color: color(Server::Relay),
        };
        Some((case.title, vec![bar]))
    });
    chart(
        "coturn's cost divided by relay's: longer is better",
        groups.collect(),
        Some(1.0),
    )
}

/// Cost of a packet for each server.
pub(super) fn costs(results: &Results) -> String {
    let groups = CASES
        .iter()
        .filter(|case| case.figure == Figure::Packet)
        .filter_map(|case| {
            let bars: Vec<Bar> = ALL
                .into_iter()
                .filter_map(|server| {
                    let value = results.summary(case, server)?.median;
                    Some(Bar {
                        value,
                        text: format!("{value:.2} {}", server.name()),
                        color: color(server),
                    })
                })
                .collect();
            (!bars.is_empty()).then_some((case.title, bars))
        });
    chart(
        "CPU-µs of the server for a packet: shorter is better",
        groups.collect(),
        None,
    )
}

const fn color(server: Server) -> &'static str {
    match server {
        Server::Relay => "#1f77b4",
        Server::Coturn => "#d98836",
        Server::TurnRs => "#8a6bb1",
        Server::Bare => "#9aa5ad",
        Server::Paused => "#c3cbd1",
    }
}

/// Horizontal bars in groups, and a line at `mark`.
fn chart(title: &str, groups: Vec<(&str, Vec<Bar>)>, mark: Option<f64>) -> String {
    let bars = groups.iter().map(|(_, bars)| bars.len()).sum::<usize>() as f64;
    let height = TOP + bars * BAR + groups.len() as f64 * GAP + GAP;
    let longest = groups.iter().flat_map(|(_, bars)| bars).map(|bar| bar.value);
    let scale = (RIGHT - LEFT) / longest.fold(mark.unwrap_or(0.0), f64::max).max(f64::MIN_POSITIVE);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"12\" y=\"24\" font-size=\"15\">{title}</text>\n"
    );
    let mut y = TOP;
    for (name, bars) in &groups {
        let middle = y + bars.len() as f64 * BAR / 2.0 + 4.0;
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{name}</text>",
            LEFT - 8.0
        );
        for bar in bars {
            let (width, color) = (bar.value * scale, bar.color);
            let _ = writeln!(
                svg,
                "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" fill=\"{color}\"/>\n\
                 <text x=\"{:.1}\" y=\"{}\">{}</text>",
                BAR - 2.0,
                LEFT + width + 4.0,
                y + BAR - 4.0,
                bar.text
            );
            y += BAR;
        }
        y += GAP;
    }
    if let Some(mark) = mark {
        let x = LEFT + mark * scale;
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"{}\" x2=\"{x:.1}\" y2=\"{y}\" stroke=\"#444\" stroke-dasharray=\"3 3\"/>",
            TOP - 6.0
        );
    }
    svg.push_str("</svg>\n");
    svg
}
