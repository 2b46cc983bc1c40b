//! The ratios as a plot: an SVG that is embedded in a page of the docs and inherits the color of its text.

use std::fmt::Write;

use super::table::ratio;
use super::{Goal, GoalResult, Report, Row};

const LINE: usize = 16;
/// The column at the end of the names and the start of the plot, and the width of the plot.
const LEFT: f64 = 540.0;
const WIDTH: f64 = 420.0;
/// The range of the plot, in powers of ten.
const FROM: f64 = -3.0;
const TO: f64 = 2.0;

/// Draws one line per row: a dot at the median of the ratios, a bar from quartile to quartile, a tick at the goal. The
/// SVG has no empty line, because an empty line would end it in Markdown.
pub(super) fn svg(report: &Report) -> String {
    let mut body = String::new();
    let mut line = 2;
    let mut group = "";
    for row in &report.rows {
        if row.group != group {
            group = row.group;
            let y = line * LINE + LINE;
            put(&mut body, format_args!(r#"<text x="4" y="{y}" font-weight="bold">{}</text>"#, escaped(group)));
            line += 2;
        }
        draw(&mut body, row, line * LINE);
        line += 1;
    }
    let height = (line + 1) * LINE;
    let mut text = String::new();
    let (width, style) = (LEFT + WIDTH + 60.0, "font-family:sans-serif;font-size:11px;max-width:100%;height:auto");
    put(
        &mut text,
        format_args!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" style="{style}" fill="currentColor">"#
        ),
    );
    for power in FROM as i32..=TO as i32 {
        let (x, of) = (at(10f64.powi(power)), ratio(10f64.powi(power)));
        let stroke = if power == 0 { "1.5" } else { "0.3" };
        put(&mut text, format_args!(r#"<text x="{x:.0}" y="14" text-anchor="middle">{of}</text>"#));
        put(
            &mut text,
            format_args!(
                r#"<line x1="{x:.0}" x2="{x:.0}" y1="20" y2="{height}" stroke="currentColor" stroke-width="{stroke}"/>"#
            ),
        );
    }
    text + &body + "</svg>\n"
}

fn draw(text: &mut String, row: &Row, y: usize) {
    let [low, median, high] = row.ratio;
    let colour = match row.goal_result {
        Some(GoalResult::Missed) => "#d33",
        Some(GoalResult::Near) => "#d90",
        Some(GoalResult::Met) => "#2a2",
        None => "#48c",
    };
    let name = escaped(&format!("{} / {}", row.name, row.baseline));
    put(text, format_args!(r#"<text x="{}" y="{}" text-anchor="end">{name}</text>"#, LEFT - 8.0, y + 4));
    let (x1, x2) = (at(low), at(high));
    put(
        text,
        format_args!(r#"<line x1="{x1:.1}" x2="{x2:.1}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="3"/>"#),
    );
    put(text, format_args!(r#"<circle cx="{:.1}" cy="{y}" r="3.5" fill="{colour}"/>"#, at(median)));
    if let Some(Goal::Ratio(most)) = row.goal {
        let (x, top, bottom) = (at(most), y - 6, y + 6);
        put(
            text,
            format_args!(
                r#"<line x1="{x:.1}" x2="{x:.1}" y1="{top}" y2="{bottom}" stroke="currentColor" stroke-width="1.5"/>"#
            ),
        );
    }
    put(text, format_args!(r#"<text x="{}" y="{}">{}</text>"#, LEFT + WIDTH + 8.0, y + 4, ratio(median)));
}

/// Returns the position of a ratio on a logarithmic scale.
fn at(ratio: f64) -> f64 {
    let power = ratio.log10().clamp(FROM, TO);
    LEFT + (power - FROM) / (TO - FROM) * WIDTH
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn put(text: &mut String, what: std::fmt::Arguments<'_>) {
    writeln!(text, "{what}").expect("a string takes it");
}
