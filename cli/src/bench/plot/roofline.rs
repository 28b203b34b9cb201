//! Achieved speed against arithmetic intensity, below what the GPU could do at best.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{FONT, Series};
use crate::bench::record::PROGRAM;
use crate::gpu::GpuName;

const WIDTH: u32 = 1100;
/// Height of the plot, unless there are more names than it takes.
const HEIGHT: u32 = 640;
/// Width at the right for the cases' names.
const NAMES_WIDTH: u32 = 330;
const LINE_HEIGHT: u32 = 18;
const DOT: i32 = 4;
/// Width of a sample in the legend.
const LEGEND: i32 = 18;
/// Lines above the names, and as many below.
const NAMES_AT: u32 = 3;
/// How far the axes reach beyond the dots, at least.
const MARGIN: f64 = 1.01;

/// The plot. A case's number stands beside our dot, and before its name at the right.
pub fn svg(series: &Series<'_>) -> anyhow::Result<String> {
    let mut svg = String::new();
    {
        let of_names = (series.cases.len() as u32 + 2 * NAMES_AT) * LINE_HEIGHT;
        let area = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT.max(of_names))).into_drawing_area();
        area.fill(&WHITE)?;
        let (left, right) = area.split_horizontally(WIDTH - NAMES_WIDTH);
        dots(series, &left)?;
        names(series, &right)?;
        area.present()?;
    }
    Ok(svg)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn dots(series: &Series<'_>, area: &Area<'_>) -> anyhow::Result<()> {
    let gpu = GpuName::of_device(series.device()).map(GpuName::ceilings);
    let points = || series.records.iter().map(|record| (record.tflops / record.gbps * 1e3, record.tflops));
    // Whole decades, so that there are numbers along the axes.
    let range = |values: &mut dyn Iterator<Item = f64>| {
        let (low, high) = values.fold((f64::INFINITY, 0.0_f64), |(low, high), x| (low.min(x), high.max(x)));
        10_f64.powf(low.log10().floor())..10_f64.powf((high * MARGIN).log10().ceil())
    };
    let x = range(&mut points().map(|(intensity, _)| intensity));
    let peak = gpu.map(|gpu| gpu.tensor_flops * 1e-12);
    let y = range(&mut points().map(|(_, tflops)| tflops).chain(peak));

    let title = format!("MLA attention on {}, {}", series.device(), series.regime.name());
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 20))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(60)
        .build_cartesian_2d(x.clone().log_scale(), y.log_scale())?;
    chart
        .configure_mesh()
        .x_desc("FLOP per byte that has to move")
        .y_desc("TFLOP/s")
        .label_style((FONT, 13))
        .draw()?;
    if let Some(gpu) = gpu {
        let ridge = (gpu.tensor_flops / gpu.bandwidth).clamp(x.start, x.end);
        let roof = [x.start, ridge, x.end]
            .map(|intensity| (intensity, (gpu.bandwidth * intensity).min(gpu.tensor_flops) * 1e-12));
        chart
            .draw_series(LineSeries::new(roof, BLACK.stroke_width(2)))?
            .label("at best")
            .legend(|(x, y)| PathElement::new([(x, y), (x + LEGEND, y)], BLACK.stroke_width(2)));
    }
    for program in &series.programs {
        let colour = series.colour(program);
        let of_program = series.records.iter().filter(|record| record.program == *program);
        let dots = of_program.map(|record| {
            Circle::new((record.tflops / record.gbps * 1e3, record.tflops), DOT, colour.filled())
        });
        chart
            .draw_series(dots)?
            .label(*program)
            .legend(move |(x, y)| Circle::new((x + LEGEND / 2, y), DOT, colour.filled()));
    }
    let beside = Pos::new(HPos::Left, VPos::Center);
    let style = TextStyle::from((FONT, 12)).pos(beside);
    let numbers = series.cases.iter().zip(1..).filter_map(|(case, number)| {
        let record = series.record(case, PROGRAM).or_else(|| series.record(case, series.programs[0]))?;
        let at = (record.tflops / record.gbps * 1e3, record.tflops);
        Some(EmptyElement::at(at) + Text::new(format!("{number}"), (DOT + 3, 0), style.clone()))
    });
    chart.draw_series(numbers)?;
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .label_font((FONT, 14))
        .draw()?;
    Ok(())
}

fn names(series: &Series<'_>, area: &Area<'_>) -> anyhow::Result<()> {
    let style = TextStyle::from((FONT, 13));
    for ((case, number), line) in series.cases.iter().zip(1..).zip(NAMES_AT..) {
        area.draw_text(&format!("{number}  {case}"), &style, (8, (line * LINE_HEIGHT) as i32))?;
    }
    Ok(())
}
