//! How things look: colours on a terminal only, a live display of stages there and plain lines elsewhere.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::sync::Mutex;
use std::time::Duration;

use build::progress::Progress;
use build::{Image, pipeline::Verdict};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// Whether stderr is a person's terminal that wants colours.
pub(crate) fn colour() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// For diagnostics of recipes.
pub(crate) fn style() -> recipe::Style {
    if colour() { recipe::Style::Coloured } else { recipe::Style::Plain }
}

fn paint(code: &str, text: &str) -> String {
    if colour() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// Red.
pub(crate) fn bad(text: &str) -> String {
    paint("1;31", text)
}

/// Green.
pub(crate) fn good(text: &str) -> String {
    paint("32", text)
}

fn faint(text: &str) -> String {
    paint("2", text)
}

/// The stages of a build, live or as lines, on stderr.
pub(crate) struct Stages {
    screen: MultiProgress,
    bars: Mutex<BTreeMap<String, ProgressBar>>,
    live: bool,
}

impl Stages {
    pub(crate) fn new() -> Self {
        let live = std::io::stderr().is_terminal();
        Stages { screen: MultiProgress::new(), bars: Mutex::default(), live }
    }

    fn line(&self, text: &str) {
        if self.live {
            // A failure to draw is no reason to stop a build.
            let _ = self.screen.println(text);
        } else {
            eprintln!("{text}");
        }
    }
}

impl Progress for Stages {
    fn hit(&self, stage: &str) {
        self.line(&format!("{} {stage:<12} {}", good("✓"), faint("unchanged")));
    }

    fn begin(&self, stage: &str, reason: &str) {
        if !self.live {
            eprintln!("… {stage:<12} {reason}");
            return;
        }
        let style = ProgressStyle::with_template(
            "{spinner} {prefix:<12} {elapsed:>4} {wide_bar} {percent:>3}%  {msg}",
        )
        .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = self.screen.add(ProgressBar::new(0).with_style(style));
        bar.set_prefix(stage.to_owned());
        bar.set_message(reason.to_owned());
        bar.enable_steady_tick(Duration::from_millis(150));
        if let Ok(mut bars) = self.bars.lock() {
            bars.insert(stage.to_owned(), bar);
        }
    }

    fn advance(&self, stage: &str, done: u64, all: u64) {
        if let Ok(bars) = self.bars.lock()
            && let Some(bar) = bars.get(stage)
        {
            bar.set_length(all);
            bar.set_position(done);
        }
    }

    fn end(&self, stage: &str, took: Duration) {
        if let Ok(mut bars) = self.bars.lock()
            && let Some(bar) = bars.remove(stage)
        {
            bar.finish_and_clear();
        }
        self.line(&format!("{} {stage:<12} {:.1} s", good("✓"), took.as_secs_f64()));
    }

    fn note(&self, text: &str) {
        self.line(&format!("  {text}"));
    }
}

/// Bytes for people, in MiB, which partitions are made of.
pub(crate) fn mib(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a size for people, with one decimal")]
    let value = bytes as f64 / f64::from(1 << 20);
    format!("{value:.1} MiB")
}

/// The table at the end of a build.
pub(crate) fn image(image: &Image) -> String {
    let mut text = format!("\n{:<4}{:<10}{:>12}{:>12}   content\n", "#", "partition", "size", "used");
    for part in &image.parts {
        text += &format!(
            "{:<4}{:<10}{:>12}{:>12}   {}\n",
            part.number,
            part.name,
            mib(part.size),
            mib(part.used),
            part.content
        );
    }
    text += &format!("\nimage     {}\n", image.path);
    text += &format!("          {}, of which {} take space\n", mib(image.size), mib(image.allocated));
    text += &format!("manifest  {}\nsha256    {}\n", image.manifest, image.sha256);
    text
}

/// The table of a dry run.
pub(crate) fn verdicts(verdicts: &[Verdict]) -> String {
    verdicts
        .iter()
        .map(|v| match &v.miss {
            None => format!("hit   {}\n", v.stage),
            Some(reason) => format!("miss  {:<12} {reason}\n", v.stage),
        })
        .collect()
}
