#pragma once
// A picture of measurements as an SVG file of its own: axes with names and units, linear or logarithmic, runs
// as points, means and fits as lines. It has a ground of its own and follows the light or dark scheme.
#include "../../examples/svg.hpp"

#include <cmath>
#include <string>
#include <utility>
#include <vector>

namespace bench {

struct Axis {
  std::string name;  // with its unit
  bool logarithmic = false;
  double low = NAN, high = NAN;  // NaN: from the data
  std::vector<double> ticks{};   // empty: round numbers
};

struct Figure {
  enum class Draw { points, line, dashed, line_and_points };
  struct Series {
    std::string name;  // empty: not in the legend
    std::size_t colour = 0;
    Draw draw = Draw::line_and_points;
    svg::Points points{};
  };
  std::string title;
  Axis x, y;
  std::vector<Series> series{};
};

namespace figure {

// Powers of ten from 1e9 on as 2·10¹², smaller numbers with k or M, others as they are.
inline std::string tick_text(double value) {
  if (value == 0) return "0";
  const double size = std::abs(value);
  char text[48];
  if (size >= 1e9 || size < 1e-3) {
    static const char* const digits[] = {"⁰", "¹", "²", "³", "⁴", "⁵", "⁶", "⁷", "⁸", "⁹"};
    const int power = static_cast<int>(std::floor(std::log10(size) + 1e-9));
    const double factor = value / std::pow(10.0, power);
    std::snprintf(text, sizeof text, "%.3g·10", factor);
    std::string result = std::abs(factor - 1) < 1e-9 ? "10" : text;
    if (power < 0) result += "⁻";
    for (const char c : std::to_string(std::abs(power))) result += digits[c - '0'];
    return result;
  }
  const double scale = size >= 1e6 ? 1e6 : size >= 1e4 ? 1e3 : 1;
  std::snprintf(text, sizeof text, "%.4g%s", value / scale, scale == 1e6 ? "M" : scale == 1e3 ? "k" : "");
  return text;
}

// Range and ticks of an axis.
struct Scale {
  bool logarithmic = false;
  double low = 0, high = 1;
  std::vector<double> ticks{};
  int decimals = -1;  // of all ticks; -1: as many as each needs
  double share(double v) const {
    return logarithmic ? std::log(v / low) / std::log(high / low) : (v - low) / (high - low);
  }
};

// Of multiples of `step`; -1 for large and very small steps.
inline int decimals_of(double step) {
  const int power = static_cast<int>(std::floor(std::log10(step) + 1e-9));
  return power >= -5 && power < 0 ? -power : -1;
}
inline std::string tick_text(const Scale& scale, double value) {
  if (scale.decimals < 0) return tick_text(value);
  char text[48];
  std::snprintf(text, sizeof text, "%.*f", scale.decimals, value);
  return text;
}

inline bool can_show(const Axis& axis, double v) { return std::isfinite(v) && (!axis.logarithmic || v > 0); }

inline Scale scale_of(const Axis& axis, const std::vector<double>& values) {
  double low = INFINITY, high = -INFINITY;
  for (const double v : values)
    if (can_show(axis, v)) low = std::min(low, v), high = std::max(high, v);
  if (low > high) low = 1, high = axis.logarithmic ? 10 : 2;
  Scale s{axis.logarithmic};
  if (axis.logarithmic) {
    const double margin = std::pow(high > low ? high / low : 4, 0.06);
    s.low = can_show(axis, axis.low) ? axis.low : low / margin;
    s.high = can_show(axis, axis.high) ? axis.high : high * margin;
    for (const double v : axis.ticks)
      if (v >= s.low && v <= s.high) s.ticks.push_back(v);
    if (!axis.ticks.empty()) return s;
    const double decades = std::log10(s.high / s.low);
    if (decades < 0.5) {  // too narrow for 1, 2 and 5
      const double step = svg::round_step(s.high - s.low, 5);
      s.decimals = decimals_of(step);
      for (double v = std::ceil(s.low / step) * step; v <= s.high; v += step) s.ticks.push_back(v);
      return s;
    }
    for (int power = static_cast<int>(std::floor(std::log10(s.low))); power <= std::log10(s.high); ++power)
      for (const double factor : {1.0, 2.0, 5.0}) {
        if (factor != 1 && decades > 2.6) continue;
        const double v = factor * std::pow(10.0, power);
        if (v >= s.low && v <= s.high) s.ticks.push_back(v);
      }
    return s;
  }
  const double step = svg::round_step(std::max(high - low, 1e-9 + 1e-3 * std::abs(high)), 6);
  s.decimals = decimals_of(step);
  s.low = std::isfinite(axis.low) ? axis.low : std::floor(low / step + 1e-9) * step;
  s.high = std::isfinite(axis.high) ? axis.high : std::ceil(high / step - 1e-9) * step;
  if (s.high <= s.low) s.high = s.low + step;
  for (int i = 0; s.low + i * step <= s.high + 1e-9 * step; ++i) {
    const double v = s.low + i * step;
    s.ticks.push_back(std::abs(v) < 1e-9 * step ? 0 : v);
  }
  return s;
}

inline std::string style() {
  constexpr const char* light[] = {"#1d5f99", "#c2570c", "#7a5195", "#0b7a75", "#b0306a", "#6f6200"};
  constexpr const char* dark[] = {"#6cb2ee", "#ff9f5a", "#c49be0", "#4fc8bf", "#ef85bb", "#d3c04a"};
  const auto scheme = [](const char* ground, const char* text, const char* soft, const char* rule,
                         const auto& colours) {
    std::string all;
    ((all += ".ground{fill:") += ground) += "}";
    ((all += "text{fill:") += text) += "}";
    ((all += "text.soft{fill:") += soft) += "}";
    ((all += ".rule{stroke:") += rule) += "}";
    for (std::size_t i = 0; i < svg::line_colours; ++i) {
      const std::string of = ".s" + std::to_string(i);
      (((all += of) += "{stroke:") += colours[i]) += "}";
      ((((all += ".dot") += of) += "{fill:") += colours[i]) += "}";
    }
    return all;
  };
  std::string all =
      "<style>text{font:13px system-ui,\"DejaVu Sans\",sans-serif}.title{font-weight:600;font-size:15px}"
      ".rule{stroke-width:1}.curve{fill:none;stroke-width:2}.dashed{stroke-dasharray:6 "
      "4}.dot{stroke:none;r:3.5px}";
  all += scheme("#ffffff", "#1c2024", "#5b636c", "#dfe3e7", light);
  all += "@media(prefers-color-scheme:dark){";
  all += scheme("#12161b", "#e6e9ec", "#9aa4ae", "#2c343d", dark);
  return all + "}</style>\n";
}

}  // namespace figure

// The text of an SVG file, 720 wide.
inline std::string draw(const Figure& f) {
  constexpr double width = 720, height = 440, left = 76, right = 24, bottom = 56;
  std::vector<double> xs, ys;
  for (const auto& s : f.series)
    for (const auto& [x, y] : s.points)
      if (figure::can_show(f.x, x) && figure::can_show(f.y, y)) xs.push_back(x), ys.push_back(y);
  const figure::Scale x = figure::scale_of(f.x, xs), y = figure::scale_of(f.y, ys);

  struct Entry {
    double x, y;
  };
  std::vector<Entry> legend;  // in rows above the plot
  double at = left, top = 74;
  for (const auto& s : f.series) {
    const double length = 40 + 7.4 * static_cast<double>(s.name.size());
    if (!s.name.empty() && at > left && at + length > width - right) at = left, top += 20;
    legend.push_back({at, top - 8});
    if (!s.name.empty()) at += length;
  }
  top += 12;

  const double across = width - left - right, down = height - top - bottom;
  const auto x_of = [&](double v) { return left + across * x.share(v); };
  const auto y_of = [&](double v) { return height - bottom - down * y.share(v); };
  svg::Drawing d(width, height, "", f.title);
  d.box(0, 0, width, height, "ground");
  d.write(20, 26, f.title, "start", "title");
  for (const double tick : y.ticks) {
    d.line(left, y_of(tick), width - right, y_of(tick), "rule");
    d.write(left - 8, y_of(tick) + 4.5, figure::tick_text(y, tick), "end");
  }
  for (const double tick : x.ticks) {
    d.line(x_of(tick), top, x_of(tick), height - bottom, "rule");
    d.write(x_of(tick), height - bottom + 19, figure::tick_text(x, tick), "middle");
  }
  d.write(left + across / 2, height - 12, f.x.name, "middle", "soft");
  d.write(20, 46, f.y.name, "start", "soft");
  for (std::size_t i = 0; i < f.series.size(); ++i) {
    const auto& s = f.series[i];
    const std::string colour = svg::line_class(s.colour);
    const bool dots = s.draw == Figure::Draw::points || s.draw == Figure::Draw::line_and_points;
    const std::string line = (s.draw == Figure::Draw::dashed ? "curve dashed " : "curve ") + colour;
    svg::Points places;
    for (const auto& [a, b] : s.points)
      if (figure::can_show(f.x, a) && figure::can_show(f.y, b)) places.emplace_back(x_of(a), y_of(b));
    if (s.draw != Figure::Draw::points && places.size() > 1) d.curve(places, line);
    if (dots)
      for (const auto& [a, b] : places) d.dot(a, b, "dot " + colour);
    if (s.name.empty()) continue;
    const auto [key_x, key_y] = legend[i];
    if (s.draw != Figure::Draw::points) d.curve({{key_x, key_y}, {key_x + 22, key_y}}, line);
    if (dots) d.dot(key_x + 11, key_y, "dot " + colour);
    d.write(key_x + 29, key_y + 4.5, s.name);
  }
  std::string text = d.str();  // <svg viewBox ...>...
  text.insert(text.find('>') + 1, "\n" + figure::style());
  return text.insert(4, " xmlns=\"http://www.w3.org/2000/svg\" width=\"720\" height=\"440\"");
}

}  // namespace bench
