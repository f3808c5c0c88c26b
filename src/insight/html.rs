//! The report as one HTML page: no script, no font, no picture from anywhere else.

use std::fmt::Write as _;
use std::time::Duration;

use super::report::{Line, Report, Top};
use super::time::rfc3339;

/// Slots of the charts.
const SLOTS: usize = 60;

const HEAD: &str = r#"<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Slow statements</title><style>
:root{color-scheme:light dark;--ground:light-dark(#f6f7f8,#14171a);--panel:light-dark(#fff,#1c2024);--line:light-dark(#dfe3e7,#31373d);
--text:light-dark(#1b2126,#dde2e6);--faint:light-dark(#66707a,#8d979f);--accent:light-dark(#0b6bcb,#5fb0ff);--bad:light-dark(#cf222e,#ff6b6b)}
*{box-sizing:border-box}body{margin:0;background:var(--ground);color:var(--text);font:14px/1.45 system-ui,sans-serif}
main{max-width:76rem;margin:0 auto;padding:1.25rem}h1{font-size:1.35rem;margin:0 0 .3rem}h2{font-size:1rem;margin:1.4rem 0 .5rem}
.faint{color:var(--faint)}article{background:var(--panel);border:1px solid var(--line);border-radius:.5rem;padding:.8rem 1rem;margin:.6rem 0}
dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(7.5rem,1fr));gap:.2rem 1rem;margin:.5rem 0}dt{color:var(--faint);font-size:.8rem}
dd{margin:0;font-variant-numeric:tabular-nums;font-weight:600}code,pre{font:12.5px/1.5 ui-monospace,monospace;white-space:pre-wrap;overflow-wrap:anywhere;margin:0}
pre.ddl{border-left:3px solid var(--accent);padding:.2rem .7rem;margin:.4rem 0}svg{display:block;width:100%;color:var(--accent)}
.bars{height:5rem}.small{height:2.2rem}li{margin:.15rem 0}
</style><main>
"#;

/// The page.
pub fn page(report: &Report, by: Top, limit: usize) -> String {
    let mut out = String::from(HEAD);
    let lines = report.top(by);
    let span = report.span.map_or_else(
        || "no line".to_owned(),
        |(first, last)| format!("{} to {}", rfc3339(first), rfc3339(last)),
    );
    let total: Duration = lines.iter().map(|line| line.total()).sum();
    let _ = write!(
        out,
        "<h1>Slow statements</h1><p class=\"faint\">{span}: {} lines of {} shapes, {} in all</p>",
        report.lines,
        lines.len(),
        time(total)
    );
    let _ = write!(
        out,
        "<article><h2>Time in slow statements</h2>{}</article>",
        bars(&report.slots(None, SLOTS), "bars")
    );
    for (headline, repeats) in report.repeats() {
        let _ = write!(out, "<h2>{headline}</h2>");
        for repeated in repeats.into_iter().take(limit) {
            let _ = write!(
                out,
                "<article><b>{}</b> {} <span class=\"faint\">{}, seen {} times</span><pre>{}</pre><p>{}</p></article>",
                escaped(&repeated.summary),
                escaped(&repeated.route),
                repeated.how_often,
                repeated.seen,
                escaped(&repeated.text),
                escaped(&repeated.suggestion)
            );
        }
    }
    out.push_str("<h2>Statements</h2>");
    for line in lines.iter().take(limit) {
        shape(&mut out, report, line);
    }
    out.push_str("</main></html>\n");
    out
}

fn shape(out: &mut String, report: &Report, line: &Line) {
    let _ = write!(
        out,
        "<article><b>{}</b> {} <span class=\"faint\">{} in {}, {}</span><pre>{}</pre><dl>",
        escaped(&line.summary),
        escaped(&line.route),
        escaped(&line.fingerprint),
        escaped(&line.database),
        escaped(line.main_route()),
        escaped(&line.text)
    );
    let per_row = line.read_per_returned().map_or_else(|| "unknown".to_owned(), |read| format!("{read:.0}"));
    for (name, value) in [
        ("slow calls", line.calls().to_string()),
        ("total", time(line.total())),
        ("mean", time(line.times.mean())),
        ("p99", time(line.times.quantile(990))),
        ("longest", time(line.times.max())),
        ("waited", time(line.queue)),
        ("rows", format!("{:.1}", line.rows())),
        ("read per row", per_row),
        ("errors", line.errors.to_string()),
    ] {
        let _ = write!(out, "<div><dt>{name}</dt><dd>{value}</dd></div>");
    }
    let _ = write!(out, "</dl>{}", bars(&report.slots(Some(line), SLOTS), "small"));
    if !line.findings.is_empty() {
        out.push_str("<ul>");
        for finding in &line.findings {
            let _ = write!(out, "<li>{}</li>", escaped(finding));
        }
        out.push_str("</ul>");
    }
    for advised in line.advice.iter().filter_map(|id| report.advice.get(id)) {
        let _ = write!(
            out,
            "<p class=\"faint\">{}</p><pre class=\"ddl\">{};</pre>",
            escaped(&advised.gain),
            escaped(&advised.ddl)
        );
    }
    out.push_str("</article>");
}

/// Bars over time.
fn bars(slots: &[Duration], class: &str) -> String {
    let peak = slots.iter().max().copied().unwrap_or_default().as_secs_f64().max(1e-9);
    let mut out = format!(
        "<svg class=\"{class}\" viewBox=\"0 0 {} 100\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"time over time\">",
        slots.len() * 10
    );
    for (at, slot) in slots.iter().enumerate().filter(|(_, slot)| !slot.is_zero()) {
        let height = (slot.as_secs_f64() / peak * 96.0).max(2.0);
        let _ = write!(
            out,
            "<rect x=\"{}\" y=\"{:.1}\" width=\"8\" height=\"{height:.1}\" fill=\"currentColor\"><title>{}</title></rect>",
            at * 10 + 1,
            100.0 - height,
            time(*slot)
        );
    }
    out.push_str("</svg>");
    out
}

/// A duration for people.
pub fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        s if s < 0.001 => format!("{:.0} µs", s * 1e6),
        s if s < 0.01 => format!("{:.1} ms", s * 1e3),
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s if s < 100.0 => format!("{s:.1} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// Text that is nothing but text.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text() {
        let mut report = Report::default();
        report.add(
            r#"{"timestamp": "2026-11-30T10:00:00Z", "event.name": "db.query.slow", "db.namespace": "a<b",
                "db.query.text": "select '<script>alert(1)</script>'", "weir.fingerprint": "1",
                "db.client.operation.duration": 1.5}"#,
        );
        let page = page(&report, Top::Total, 10);
        assert!(page.contains("&lt;script&gt;") && !page.contains("<script"), "{page}");
        assert!(page.contains("<dd>1.5 s</dd>") && !page.contains("http"), "{page}");
    }

    #[test]
    fn durations_are_short() {
        let shown = [0.000_25, 0.0042, 0.25, 12.0, 600.0, 72_000.0].map(|s| time(Duration::from_secs_f64(s)));
        assert_eq!(shown, ["250 µs", "4.2 ms", "250 ms", "12.0 s", "10 min", "20.0 h"]);
    }
}
