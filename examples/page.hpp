#pragma once
// The HTML page of report and watch_routing: one file for any browser, light and dark, without scripts and
// network access. The policy in its head forbids both, whatever the data hold.
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "svg.hpp"

namespace page {

using svg::escaped, svg::number;

// Colours on light and dark ground. Heat maps use lightness only: readable in greyscale and by colour-blind
// viewers.
// Relative luminance of a colour (WCAG 2.1); c: red, green, blue in [0, 255].
inline double luminance(const double (&c)[3]) {
  const auto linear = [](double v) {
    v /= 255;
    return v <= 0.04045 ? v / 12.92 : std::pow((v + 0.055) / 1.055, 2.4);
  };
  return 0.2126 * linear(c[0]) + 0.7152 * linear(c[1]) + 0.0722 * linear(c[2]);
}
inline double contrast(double a, double b) { return (std::max(a, b) + 0.05) / (std::min(a, b) + 0.05); }

// text, on: of var(--text) and var(--on). Numbers on a level have the colour with more contrast.
inline std::string heat_style(const int (&ramp)[5][3], const double (&text)[3], const double (&on)[3]) {
  std::string style;
  for (int level = 0; level < svg::heat_levels; ++level) {
    const double x = 4.0 * level / (svg::heat_levels - 1);
    const int i = std::min(3, static_cast<int>(x));
    double rgb[3];
    std::string colour = "rgb(";
    for (int c = 0; c < 3; ++c) {
      rgb[c] = std::round(ramp[i][c] + (x - i) * (ramp[i + 1][c] - ramp[i][c]));
      colour += number(rgb[c]) + (c < 2 ? "," : ")");
    }
    const double ground = luminance(rgb);
    const bool is_on = contrast(ground, luminance(on)) > contrast(ground, luminance(text));
    style += "svg .t" + std::to_string(level) + "{fill:var(--" + (is_on ? "on" : "text") + ")}.h" +
             std::to_string(level) + "{--c:" + colour + ";fill:var(--c);background:var(--c)}";
  }
  return style + "\n";
}
inline std::string colours() {
  constexpr int light[5][3] = {
      {243, 246, 249}, {186, 211, 228}, {105, 161, 198}, {38, 98, 148}, {10, 40, 82}};
  constexpr int dark[5][3] = {{29, 35, 43}, {27, 65, 97}, {43, 112, 163}, {110, 172, 217}, {214, 236, 252}};
  constexpr const char* light_lines[] = {"#1d5f99", "#c2570c", "#7a5195", "#0b7a75", "#b0306a", "#6f6200"};
  constexpr const char* dark_lines[] = {"#6cb2ee", "#ff9f5a", "#c49be0", "#4fc8bf", "#ef85bb", "#d3c04a"};
  const auto lines = [](const auto& all) {
    std::string text;
    for (std::size_t i = 0; i < svg::line_colours; ++i)
      text += "--s" + std::to_string(i) + ":" + all[i] + ";";
    return text;
  };
  std::string style =
      ":root{color-scheme:light dark;--ground:#fff;--panel:#f6f7f9;--text:#1c2024;--soft:#5b636c;"
      "--rule:#dfe3e7;--mark:#b00020;--on:#fff;--muted:#e6e8eb;--dim:#a3aab1;--tint:83%;--line:52%;--tint-s:"
      "70%;" +
      lines(light_lines) + "}\n" + heat_style(light, {28, 32, 36}, {255, 255, 255}) +
      "@media (prefers-color-scheme:dark){:root{--ground:#12161b;--panel:#1a2027;--text:#e4e8ec;"
      "--soft:#9aa4ae;--rule:#2c343d;--mark:#ff8a80;--on:#0c1116;--muted:#2a3038;--dim:#5c6670;--tint:30%;--"
      "line:58%;--"
      "tint-s:55%;" +
      lines(dark_lines) + "}\n" + heat_style(dark, {228, 232, 236}, {12, 17, 22}) + "}\n";
  for (std::size_t i = 0; i < svg::line_colours; ++i) {
    const std::string n = std::to_string(i);
    style += ".s" + n + "{stroke:var(--s" + n + ")}.band.s" + n + ",.dot.s" + n + "{fill:var(--s" + n +
             ")}.swatch.s" + n + "{background:var(--s" + n + ")}";
  }
  return style + "\n";
}

inline constexpr const char* style = R"(
*{box-sizing:border-box}
body{font:15px/1.55 system-ui,"Segoe UI","DejaVu Sans",sans-serif;color:var(--text);background:var(--ground);
  max-width:1180px;margin:0 auto;padding:32px 24px 64px}
h1{font-size:27px;line-height:1.25;margin:0 0 6px;overflow-wrap:anywhere}
h2{font-size:19px;margin:44px 0 4px}h3{font-size:15px;margin:22px 0 4px}
p{max-width:760px;margin:6px 0 16px}.soft{color:var(--soft)}
:focus-visible{outline:2px solid var(--s0);outline-offset:2px}
table{border-collapse:collapse;margin:6px 0 18px}
th,td{text-align:right;padding:4px 0 4px 26px;border-bottom:1px solid var(--rule);
  font-weight:normal;vertical-align:top}
th{color:var(--soft)}th:first-child,td:first-child{text-align:left;padding-left:0}
table.words td,table.words th{text-align:left}.words td:not(:last-child){white-space:nowrap}
.words span.of{display:inline-block;margin-right:12px;color:var(--soft);font-size:13px}
.type{font:13px/1.55 ui-monospace,"SF Mono","DejaVu Sans Mono",Consolas,monospace;color:var(--soft)}
.words td{overflow-wrap:anywhere}
.scroll{overflow-x:auto;max-width:100%}
.scroll th:first-child,.scroll td:first-child{position:sticky;left:0;background:var(--ground)}
.samples td{text-align:left;font-style:italic}.samples td:first-child{font-style:normal;color:var(--soft)}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(340px,100%),1fr));gap:26px 40px}
.grid.two{grid-template-columns:repeat(auto-fit,minmax(min(400px,100%),1fr))}.grid svg{max-width:500px}
.tiles{display:flex;flex-wrap:wrap;gap:10px;margin:18px 0 8px}
.tile{flex:1 1 150px;background:var(--panel);border:1px solid var(--rule);border-radius:8px;
  padding:10px 14px;max-width:260px}
.tile b{display:block;font-size:21px;font-weight:600;line-height:1.3;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:13px;display:block}
.swatch{display:inline-block;width:12px;height:12px;border-radius:3px;margin-right:7px}
details{margin:8px 0}summary{cursor:pointer}summary h2,summary h3{display:inline}
pre,code,.text{font-family:ui-monospace,"SF Mono","DejaVu Sans Mono",Consolas,monospace}
pre{background:var(--panel);border:1px solid var(--rule);border-radius:8px;padding:12px 14px;
  margin:6px 0 16px;white-space:pre-wrap;overflow-wrap:anywhere;
  font-size:13.5px;line-height:1.5;max-width:900px}
code{font-size:13px;background:var(--panel);border:1px solid var(--rule);border-radius:4px;
  padding:0 4px;white-space:pre}
svg{width:100%;height:auto;display:block;font:13px system-ui,"Segoe UI","DejaVu Sans",sans-serif}
svg text{fill:var(--text)}svg .title{font-weight:600;font-size:14px}svg .soft{fill:var(--soft)}
svg .marked{fill:var(--mark);paint-order:stroke;stroke:var(--ground);stroke-width:3px}
path.heat{fill:none;stroke:var(--c)}rect{shape-rendering:crispEdges}.muted{fill:var(--muted)}
.rule{stroke:var(--rule)}.curve{fill:none;stroke-width:2;stroke-linejoin:round}
.thin{stroke-width:1.2;opacity:.75}.band{stroke:none;opacity:.22}.dot{stroke:none}
.mark{stroke:var(--mark);stroke-width:1.5}
.dashed{stroke-dasharray:5 4}
.hit{fill:transparent}.hit:hover{fill:var(--soft);opacity:.13}
svg.narrow{display:none}
@media (max-width:760px){body{padding:20px 14px 48px}svg.wide{display:none}
  svg.narrow{display:block;max-width:560px}.tile{max-width:none;flex-basis:130px}
  table{font-size:14px}th,td{padding:4px 0 4px 14px}td,th{white-space:nowrap}
  .words td:last-child,.words th:last-child{white-space:normal;min-width:190px}
  .samples td{white-space:normal}}
@media print{.tile,pre{break-inside:avoid}}
)";

// The whole page. title: plain text; body: HTML; more: further style.
inline std::string whole(std::string_view title, const std::string& body, const std::string& more = {}) {
  return "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
         "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
         "'unsafe-inline'\">\n"
         "<meta name=\"viewport\" content=\"width=device-width\">\n<title>" +
         escaped(title) + "</title>\n<style>\n" + colours() + style + more + "</style>\n</head>\n<body>\n" +
         body + "</body>\n</html>\n";
}

// words and content: HTML.
inline std::string section(std::string_view title, std::string_view words, const std::string& content) {
  std::string text = "<h2>" + escaped(title) + "</h2>\n";
  if (!words.empty()) ((text += "<p>") += words) += "</p>\n";
  return text + content;
}
// Pictures side by side: three in a row of a wide window, or two if they are two or four.
inline std::string grid(const std::string& pictures) {
  int count = 0;
  for (std::size_t at = 0; (at = pictures.find("<svg", at)) != pictures.npos; ++at) ++count;
  return std::string("<div class=\"grid") + (count == 2 || count == 4 ? " two" : "") + "\">\n" + pictures +
         "</div>\n";
}
inline std::string details(const std::string& summary, const std::string& content, bool open = false) {
  return std::string("<details") + (open ? " open" : "") + "><summary>" + summary + "</summary>\n" + content +
         "</details>\n";
}

// Rows of cells, HTML; the first row is the head. kind: a class.
inline std::string table(const std::vector<std::vector<std::string>>& rows, std::string_view kind = {}) {
  std::string text = "<div class=\"scroll\"><table";
  if (!kind.empty()) ((text += " class=\"") += kind) += "\"";
  text += ">\n";
  for (const auto& row : rows) {
    const char* cell = &row == rows.data() ? "th" : "td";
    text += "<tr>";
    for (const std::string& content : row) {
      ((text += "<") += cell) += ">";
      text += content;
      ((text += "</") += cell) += ">";
    }
    text += "</tr>\n";
  }
  return text + "</table></div>\n";
}

}  // namespace page
