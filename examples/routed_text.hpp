#pragma once
// A text whose tokens are coloured by the expert that took them, layer by layer, and what each expert takes.
// Layers and experts are chosen by radio buttons, which the keyboard reaches; the style sheet does the rest.
#include <moegpt/run/routing_record.hpp>

#include <map>

#include "page.hpp"

namespace routed_text {
using namespace moegpt;
using Layer = RoutingRecord::Layer;

// A token in a table: white space is visible.
inline std::string visible(std::string_view token) {
  std::string text;
  for (const char c : token)
    text += c == '\n' ? "\u23ce" : c == ' ' ? "\u2423" : c == '\t' ? "\u21e5" : std::string(1, c);
  return page::escaped(text);
}
inline std::string shown(std::string_view token) { return "<code>" + visible(token) + "</code>"; }

inline constexpr const char* kinds[] = {"space",   "line end", "vowel",       "consonant",
                                        "capital", "digit",    "punctuation", "other"};
inline constexpr std::size_t kind_count = std::size(kinds);
// What a token is, by its first character that is no space.
inline std::size_t kind_of(std::string_view token) {
  const std::size_t first = token.find_first_not_of(' ');
  if (first == token.npos) return 0;
  const char c = token[first];
  if (c == '\n' || c == '\r') return 1;
  if (std::string_view("aeiouy").find(c) != std::string_view::npos) return 2;
  if (c >= 'a' && c <= 'z') return 3;
  if (c >= 'A' && c <= 'Z') return 4;
  if (c >= '0' && c <= '9') return 5;
  return c > ' ' && c < 0x7f ? 6 : 7;
}

// Hue of an expert, in degrees: neighbours in number are far apart if there are many.
inline double hue(int expert, int experts) {
  return experts <= 12 ? 360.0 * expert / experts : std::fmod(137.508 * expert, 360.0);
}

// kind: e, of grounds; f, of lines, which are darker.
inline std::string colour_of(int expert, int experts, char kind = 'e') {
  return std::string("var(--") + kind + std::to_string(experts) + "-" + std::to_string(expert) + ")";
}
inline std::string name(std::string_view prefix, int layer, int expert) {
  return std::string(prefix) + std::to_string(layer) + "-" + std::to_string(expert);
}

// Each expert of each layer has rules and a button of its own.
inline bool can_show(const RoutingRecord& record) {
  Index experts = 0;
  for (const Layer& layer : record.layers) experts += layer.experts;
  return experts <= 4096;
}

// Rules of one text; `id` distinguishes the texts of a page. The classes of a token: xL-E and yL-E, its first
// and second expert in layer L. They set the colours --xL and --yL; a chosen expert leaves only its own.
inline std::string style(const RoutingRecord& record, const std::string& id) {
  std::string rules;
  for (std::size_t l = 0; l < record.layers.size(); ++l) {
    const int number = static_cast<int>(l), E = record.layers[l].experts;
    const std::string on = "#" + id + "l" + std::to_string(l) + ":checked~", text = "#" + id + "t .";
    const std::string x = "--x" + std::to_string(l), y = "--y" + std::to_string(l);
    rules += on + ".of" + std::to_string(l) + "{display:inline-block}" + on + ".panel.of" +
             std::to_string(l) + "{display:block}" + on + ".text i{background:var(" + x +
             ");border-color:var(" + y + ",transparent)}\n";
    for (int e = 0; e < E; ++e) {
      const std::string colour = colour_of(e, E), line = colour_of(e, E, 'f'),
                        chosen = "#" + id + name("e", number, e) + ":checked~.text i",
                        first = name("x", number, e), second = name("y", number, e);
      rules += text + first + "{" + x + ":" + colour + "}" + text + second + "{" + y + ":" + line + "}" +
               chosen + ":not(." + first + "){" + x + ":none}" + chosen + ":not(." + second + "){" + y +
               ":transparent}" + on + chosen + ":not(." + first + ",." + second + "){color:var(--dim)}\n";
    }
  }
  return rules;
}
// Colours of experts, for each number of experts on the page.
inline std::string colours(const std::vector<int>& expert_counts) {
  std::string rules = ":root{";
  for (const int E : expert_counts)
    for (int e = 0; e < E; ++e) {
      const std::string number = std::to_string(E) + "-" + std::to_string(e),
                        h = page::number(hue(e, E), "%.0f");
      const bool darker = E > 12 && e % 2 == 1;
      rules += "--e" + number + ":hsl(" + h + " var(--tint-s) " +
               (darker ? "calc(var(--tint) - 7%)" : "var(--tint)") + ");--f" + number + ":hsl(" + h +
               " var(--tint-s) var(--line));";
    }
  return rules + "}\n";
}

inline constexpr const char* common_style = R"(
.routed{position:relative;margin:10px 0 26px}
.routed>input{position:absolute;opacity:0;pointer-events:none}
.routed>input[class]{display:none}
.routed>label{display:inline-block;border:1px solid var(--rule);border-radius:999px;
  padding:2px 12px;margin:0 6px 8px 0;cursor:pointer;font-size:13.5px}
.routed>label.chip{display:none;padding:1px 9px;border-color:transparent}
.routed>input:checked+label{border-color:var(--text);box-shadow:inset 0 0 0 1px var(--text)}
.routed>input:focus-visible+label{outline:2px solid var(--s0);outline-offset:2px}
.routed>.break{display:block;height:0}
.panel{display:none}
.text{background:var(--panel);border:1px solid var(--rule);border-radius:8px;padding:14px 16px;
  margin:6px 0 14px;font-size:15px;line-height:1.9;
  white-space:pre-wrap;overflow-wrap:anywhere;max-height:28em;overflow:auto}
.text i{font-style:normal;border-bottom:2px solid transparent;padding:2px 0 0}
.text i:hover{outline:1.5px solid var(--text)}
.text i:hover::after{content:"layer: experts and gates\A" attr(data-g);
  position:fixed;left:0;right:0;bottom:0;z-index:9;
  white-space:pre-wrap;background:var(--text);color:var(--ground);padding:8px 16px;font-size:13px;
  line-height:1.5;max-height:50vh;overflow:hidden}
.gates td{text-align:left;font-variant-numeric:tabular-nums}.gates th{text-align:left}
)";

// The experts and gates of token n in one layer: 3 .61, 5 .39
inline std::string gates(const Layer& layer, std::size_t n) {
  std::string text;
  for (std::size_t k = 0; k < static_cast<std::size_t>(layer.choices); ++k) {
    const std::size_t pair = n * static_cast<std::size_t>(layer.choices) + k;
    if (layer.expert[pair] == no_expert) continue;
    const std::string gate = page::number(layer.gate[pair], " %.2f");
    text += (text.empty() ? "" : ", ") + std::to_string(layer.expert[pair]) +
            (gate.starts_with(" 0.") ? " " + gate.substr(2) : gate);
  }
  return text.empty() ? "none" : text;
}

// What an expert of a layer takes, in order of  n(e, t) ln(P(t | e) / P(t)):  the tokens t that distinguish
// it.
struct Taken {
  double share = 0, gate = 0;  // of all pairs; mean gate
  struct Token {
    std::string text;
    double of_token = 0;  // fraction of its occurrences that this expert takes
    double score = 0;
  };
  std::vector<Token> tokens{};
};
inline std::vector<Taken> taken(const RoutingRecord& record, const Layer& layer) {
  const auto K = static_cast<std::size_t>(layer.choices);
  struct Counts {
    double occurrences = 0, pairs = 0;
    std::map<int, double> of_expert{};
  };
  std::map<std::string_view, Counts> counts;
  for (const std::string& token : record.tokens) ++counts[token].occurrences;
  std::vector<Taken> all(static_cast<std::size_t>(layer.experts));
  std::vector<double> load(all.size());
  double pairs = 0;
  for (std::size_t pair = 0; pair < layer.expert.size(); ++pair) {
    const int e = layer.expert[pair];
    if (e == no_expert) continue;
    Counts& of_token = counts[record.tokens[pair / K]];
    ++of_token.of_expert[e], ++of_token.pairs, ++load[static_cast<std::size_t>(e)], ++pairs;
    all[static_cast<std::size_t>(e)].gate += layer.gate[pair];
  }
  for (const auto& [token, of_token] : counts)
    for (const auto& [e, count] : of_token.of_expert) {
      const double expected = load[static_cast<std::size_t>(e)] / pairs * of_token.pairs;
      const double score = count * std::log(count / expected);
      if (count >= 2 && score > 0)
        all[static_cast<std::size_t>(e)].tokens.push_back(
            {std::string(token), count / of_token.occurrences, score});
    }
  for (std::size_t e = 0; e < all.size(); ++e) {
    if (load[e] == 0) continue;
    all[e].share = load[e] / pairs;
    all[e].gate /= load[e];
    auto& tokens = all[e].tokens;
    std::stable_sort(tokens.begin(), tokens.end(),
                     [](const auto& a, const auto& b) { return a.score > b.score; });
    if (tokens.size() > 8) tokens.resize(8);
  }
  return all;
}

inline std::string taken_table(const RoutingRecord& record, const Layer& layer) {
  std::vector<std::vector<std::string>> rows{
      {"expert", "share", "mean gate", "tokens that distinguish it, with the share of them that it takes"}};
  const std::vector<Taken> all = taken(record, layer);
  for (std::size_t e = 0; e < all.size(); ++e) {
    std::string words;
    for (const auto& token : all[e].tokens)
      words += "<span class=\"of\">" + shown(token.text) + page::number(100 * token.of_token, " %.0f %%") +
               "</span>";
    rows.push_back({"<span class=\"swatch\" style=\"background:" +
                        colour_of(static_cast<int>(e), layer.experts) + "\"></span>" + std::to_string(e),
                    page::number(100 * all[e].share, "%.1f %%"), page::number(all[e].gate, "%.2f"),
                    all[e].share > 0 ? words : "<span class=\"soft\">takes nothing of this text</span>"});
  }
  return page::table(rows, "words");
}

// Share of each expert in the choices of each kind of token.
inline std::string kinds_map(const RoutingRecord& record, const Layer& layer) {
  const auto E = static_cast<std::size_t>(layer.experts), K = static_cast<std::size_t>(layer.choices);
  std::vector<double> count(kind_count * E), total(kind_count);
  for (std::size_t pair = 0; pair < layer.expert.size(); ++pair)
    if (layer.expert[pair] != no_expert) {
      const std::size_t kind = kind_of(record.tokens[pair / K]);
      ++count[kind * E + static_cast<std::size_t>(layer.expert[pair])], ++total[kind];
    }
  double most = 2.0 / layer.experts;
  svg::Heatmap map{.title = "Layer " + std::to_string(layer.layer) + ": percent of a kind's choices",
                   .row_name = "kind",
                   .col_name = "expert",
                   .mark = 100.0 / layer.experts,
                   .mark_name = "even share, " + page::number(100.0 / layer.experts, "%.1f %%"),
                   .unit = " %",
                   .numbers = layer.experts <= 12,
                   .cell_height = 26,
                   .left = 92};
  for (int e = 0; e < layer.experts; ++e)
    map.cols.push_back(layer.experts <= 16 || e % 8 == 0 ? std::to_string(e) : "");
  for (std::size_t kind = 0; kind < kind_count; ++kind) {
    if (total[kind] == 0) continue;
    map.rows.emplace_back(kinds[kind]);
    for (std::size_t e = 0; e < E; ++e) {
      const double share = count[kind * E + e] / total[kind];
      most = std::max(most, share);
      map.value.push_back(100 * share);
    }
  }
  map.top = 100 * most;
  return svg::draw(map);
}

// A radio button and its label. kind: of a layer, whose buttons are there if the layer is chosen.
struct Radio {
  std::string group, id, kind{};
  bool checked = false;
  std::string name, words, ground{};
};
inline std::string radio(const Radio& r) {
  std::string text =
      "<input type=\"radio\" name=\"" + r.group + "\" id=\"" + r.id + "\" aria-label=\"" + r.name + "\"";
  if (!r.kind.empty()) text += " class=\"" + r.kind + "\"";
  text += std::string(r.checked ? " checked" : "") + "><label for=\"" + r.id + "\"";
  if (!r.kind.empty()) text += " class=\"chip " + r.kind + "\"";
  if (!r.ground.empty()) text += " style=\"background:" + r.ground + "\"";
  return text + ">" + r.words + "</label>\n";
}

// The text with its controls. At most `most` tokens are shown; the tables are of all.
inline std::string html(const RoutingRecord& record, const std::string& id, std::size_t most = 750) {
  if (record.layers.empty()) return "<p class=\"soft\">This model has no routed layers.</p>\n";
  if (!can_show(record)) return "<p class=\"soft\">These are too many experts to show in colours.</p>\n";
  std::string text = "<div class=\"routed\">\n";
  for (std::size_t l = 0; l < record.layers.size(); ++l) {
    const std::string words = "layer " + std::to_string(record.layers[l].layer);
    text += radio(
        {.group = id, .id = id + "l" + std::to_string(l), .checked = l == 0, .name = words, .words = words});
  }
  text += "<span class=\"break\"></span>\n";
  for (std::size_t l = 0; l < record.layers.size(); ++l) {
    const Radio all{.group = id + "c" + std::to_string(l),
                    .id = id + name("e", static_cast<int>(l), -1),
                    .kind = "of" + std::to_string(l),
                    .checked = true,
                    .name = "all experts",
                    .words = "all experts"};
    text += radio(all);
    for (int e = 0; e < record.layers[l].experts; ++e) {
      Radio one = all;
      one.id = id + name("e", static_cast<int>(l), e), one.checked = false;
      one.name = "expert " + std::to_string(e), one.words = std::to_string(e);
      one.ground = colour_of(e, record.layers[l].experts);
      text += radio(one);
    }
  }
  text += "<div class=\"text\" id=\"" + id +
          "t\" tabindex=\"0\" role=\"region\" aria-label=\"text coloured by expert\">";
  const std::size_t shown_tokens = std::min(most, record.tokens.size());
  for (std::size_t n = 0; n < shown_tokens; ++n) {
    std::string classes, words;
    for (std::size_t l = 0; l < record.layers.size(); ++l) {
      const Layer& layer = record.layers[l];
      const auto K = static_cast<std::size_t>(layer.choices);
      words += (l > 0 ? "\n" : "") + std::to_string(layer.layer) + ": " + gates(layer, n);
      for (std::size_t k = 0, place = 0; k < K && place < 2; ++k)
        if (const int e = layer.expert[n * K + k]; e != no_expert)
          (classes += classes.empty() ? "" : " ") += name(place++ == 0 ? "x" : "y", static_cast<int>(l), e);
    }
    text += "<i class=\"" + classes + "\" data-g=\"" + page::escaped(words) + "\">" +
            page::escaped(record.tokens[n]) + "</i>";
  }
  text += "</div>\n";
  for (std::size_t l = 0; l < record.layers.size(); ++l) {
    const Layer& layer = record.layers[l];
    text += "<div class=\"panel of" + std::to_string(l) + "\">\n<h3>What each expert of layer " +
            std::to_string(layer.layer) + " takes</h3>\n" + taken_table(record, layer) +
            page::grid(kinds_map(record, layer)) + "</div>\n";
  }
  text += "</div>\n";
  std::vector<std::vector<std::string>> rows{{"token"}};
  for (const Layer& layer : record.layers) rows[0].push_back("layer " + std::to_string(layer.layer));
  for (std::size_t n = 0; n < shown_tokens; ++n) {
    rows.push_back({visible(record.tokens[n])});
    for (const Layer& layer : record.layers) rows.back().push_back(gates(layer, n));
  }
  return text +
         page::details("The same as a table: experts and gates of each token", page::table(rows, "gates"));
}

}  // namespace routed_text
