/**
 * Every word of the page, in every language side by side, so that none can be missing alone.
 *
 * `{n}` is put in as it is, a number with the reader's thousands; `{n%}` as a percentage; `{n|item|items}` is the
 * second form unless n is 1. Text from data is only ever put into text nodes.
 */

/** @type {Record<string, [string, string]>} key -> [English, Chinese] */
export const WORDS = {
  "page.skip": ["Skip to the content", "跳到正文"],
  "page.loading": ["Loading", "加载中"],
  "page.served": ["{name}: {n} {n|item|items}, encoder {encoder} ({dim} dimensions, {runtime})", "{name}：{n} 件物品，编码器 {encoder}（{dim} 维，{runtime}）"],
  "page.api": ["HTTP API", "HTTP 接口"],
  "page.theme": ["Theme: {theme}. Change", "主题：{theme}。切换"],
  "page.theme.auto": ["as the system", "跟随系统"],
  "page.theme.light": ["light", "浅色"],
  "page.theme.dark": ["dark", "深色"],
  "page.language": ["中文", "English"],
  "page.languageHint": ["Switch to Chinese", "切换到英文"],
  "nav.label": ["Views", "视图"],
  "nav.home": ["llm_tail, start", "llm_tail，首页"],
  "nav.map": ["Map", "地图"],
  "nav.exposure": ["Exposure", "曝光"],
  "nav.tray": ["For you", "为你推荐"],
  "nav.trayCount": ["{n} {n|item|items} taken", "已选 {n} 件"],

  "segment.head": ["head", "头部"],
  "segment.tail": ["tail", "长尾"],
  "segment.cold": ["cold", "冷启动"],
  "segment.head.is": ["the most popular fifth", "最热门的五分之一"],
  "segment.tail.is": ["taken at least once", "至少被选过一次"],
  "segment.cold.is": ["nobody has taken it yet", "还没有人选过"],
  "segment.none": ["no interactions", "无交互"],

  "find.label": ["Search the catalogue", "搜索目录"],
  "find.hint": ["Search by words or meaning", "按词语或语义搜索"],
  "find.options": ["Suggestions", "建议"],
  "find.count": ["{n} {n|suggestion|suggestions}", "{n} 条建议"],

  "home.title": ["Find what few have found yet", "发现少有人知的好物"],
  "home.lead": ["Texts become vectors, vectors a graph, and what many have taken lends its signal to what nobody has touched yet.", "文本化为向量，向量连成图谱；热门物品的信号，由此借给无人问津的物品。"],
  "home.shares": ["How the catalogue divides", "目录的构成"],
  "home.some": ["Already taken by some", "已有人选过"],
  "home.begin": ["A few to begin with", "从这几件开始"],
  "home.coldSome": ["Nobody has taken these yet", "还没有人选过"],
  "home.other": ["Show others", "换一批"],
  "home.items": ["{n|item|items}", "件物品"],
  "home.people": ["{n|person|people}", "位用户"],
  "home.communities": ["{n|community|communities}", "个社群"],
  "home.map": ["The whole catalogue on one map", "一张地图看全部目录"],
  "home.openMap": ["Open the map", "打开地图"],

  "search.title": ["Results for “{q}”", "“{q}”的结果"],
  "search.empty": ["What are you looking for?", "你在找什么？"],
  "search.emptyHint": ["Type a few words above. Meaning counts, too: “{a}” finds items that say it differently.", "在上方输入几个词。语义同样有效：“{a}”也能找到换种说法的物品。"],
  "search.example": ["a gift for a gardener", "送给园艺爱好者的礼物"],
  "search.how": ["Search by", "搜索方式"],
  "how.both": ["both", "两者"],
  "how.words": ["words", "词语"],
  "how.vectors": ["meaning", "语义"],
  "search.found": ["{n} {n|item|items}", "{n} 件物品"],
  "search.nothing": ["Nothing was found.", "没有找到。"],
  "search.nothingHint": ["Try other words, search by meaning, or take a filter out.", "换个词语，按语义搜索，或去掉一个筛选条件。"],
  "search.more": ["Show more", "显示更多"],

  "filter.title": ["Filter", "筛选"],
  "filter.column": ["Column", "列"],
  "filter.operator": ["Comparison", "比较"],
  "filter.value": ["Value", "值"],
  "filter.contains": ["contains", "包含"],
  "filter.own": ["A condition in your own words", "自己写条件"],
  "filter.ownHint": ["or write it: price < 20 and segment = tail", "或直接写：price < 20 and segment = tail"],
  "filter.add": ["Add", "添加"],
  "filter.remove": ["Remove {condition}", "移除 {condition}"],
  "filter.none": ["This catalogue has no columns to filter by.", "此目录没有可筛选的列。"],

  "reason.similar": ["alike in words", "文本相似"],
  "reason.taken": ["taken by the same people", "被同一批人选过"],
  "reason.both": ["{n} {n|person|people} took both", "{n} 人两者都选过"],
  "reason.with": ["goes with {title}", "与“{title}”相配"],
  "reason.via": ["via {title}", "经由 {title}"],
  "reason.same": ["same {relation}", "相同的 {relation}"],
  "reason.value": ["same {relation}: {value}", "相同的 {relation}：{value}"],

  "item.taken": ["{n} {n|person has|people have} taken it", "{n} 人选过"],
  "item.upserted": ["came through the service", "由服务新增"],
  "item.take": ["I took this", "我选过它"],
  "item.untake": ["Taken: put back", "已选：放回"],
  "item.took": ["Taken: {title}", "已选：{title}"],
  "item.untook": ["Put back: {title}", "已放回：{title}"],
  "item.facts": ["Facts", "信息"],
  "item.noText": ["This item has no description.", "此物品没有描述。"],
  "item.more": ["Show all", "展开"],
  "item.onMap": ["Show on the map", "在地图上查看"],
  "item.less": ["Show less", "收起"],
  "item.near": ["Who is near", "谁在附近"],
  "item.byText": ["By text", "按文本"],
  "item.byText.is": ["near in meaning; cosine", "语义相近；余弦"],
  "item.byGraph": ["By graph", "按图谱"],
  "item.byGraph.is": ["tied by what they share; strength", "因共同点相连；强度"],
  "item.byPeople": ["By people", "按用户"],
  "item.byPeople.is": ["taken by the same people; cosine", "被同一批人选过；余弦"],
  "item.nobody": ["Nobody has taken it yet, so people tell nothing. Its neighbours lend their signal instead.", "还没有人选过它，因此没有用户信号；由邻居借给它。"],
  "item.noTies": ["Nothing is here.", "这里没有内容。"],

  "why.title": ["Why it would be recommended", "为什么推荐它"],
  "why.own": ["its own past", "自身历史"],
  "why.borrowed": ["borrowed from neighbours", "邻居借入"],
  "why.text": ["its words", "文本"],
  "why.lenders": ["Who lends to it", "谁借给它"],
  "why.because": ["What speaks for it", "依据"],
  "why.readers": ["Whom it fits", "适合谁"],
  "why.whom": ["Told for", "解释对象"],
  "why.best": ["the person it fits best", "最适合的人"],
  "why.tray": ["what I took", "我选的物品"],
  "why.person": ["Told for {user}.", "解释对象：{user}。"],
  "why.nothing": ["Nothing speaks for it there.", "没有支持它的依据。"],
  "why.noLenders": ["It lives on its own past and borrows from nobody.", "它凭自身历史，不向邻居借入。"],

  "graph.title": ["Its surroundings", "它的周围"],
  "graph.hops": ["Steps", "步数"],
  "graph.relations": ["Ties", "关系"],
  "graph.help": ["Drag to move, scroll or + and − to zoom, click or Enter to travel, arrow keys to go from item to item. Of each item the strongest ties are drawn.", "拖动移动，滚轮或 + − 缩放，点击或回车前往，方向键在物品间移动。每件物品只画最强的关系。"],
  "graph.label": ["Graph of {n} items around {title}", "{title} 周围 {n} 件物品的图谱"],
  "graph.list": ["The same as a list", "以列表显示"],
  "graph.alone": ["Nothing is tied to it.", "没有与它相连的物品。"],
  "graph.steps": ["{n} {n|step|steps} away", "相距 {n} 步"],
  "relation.similar": ["similar text", "文本相似"],
  "relation.taken_together": ["taken together", "一起被选"],

  "compare.title": ["Two encoders side by side", "两种编码器对比"],
  "compare.lead": ["The nearest by text as the base encoder sees them, and as the encoder of this run does.", "基础编码器与本次运行的编码器各自认为文本最近的物品。"],
  "compare.run": ["This run", "本次运行"],
  "compare.base": ["Base", "基础"],
  "compare.new": ["new", "新"],
  "compare.up": ["up {n}", "上升 {n}"],
  "compare.down": ["down {n}", "下降 {n}"],
  "compare.same": ["{n} of {k} are the same.", "{k} 件中有 {n} 件相同。"],
  "compare.equal": ["Both see the same: this run was not fine-tuned, or fine-tuning did not win.", "两者一致：本次运行未微调，或微调未能胜出。"],
  "compare.gone": ["left", "移出"],

  "map.title": ["Map of the catalogue", "目录地图"],
  "map.colour": ["Colour by", "着色"],
  "map.bySegment": ["segment", "分层"],
  "map.byCommunity": ["community", "社群"],
  "map.canvas": ["Map of {n} items. Arrow keys move it, + and − zoom, 0 shows all, Enter opens the item in the middle.", "{n} 件物品的地图。方向键移动，+ − 缩放，0 显示全部，回车打开中间的物品。"],
  "map.in": ["Zoom in", "放大"],
  "map.out": ["Zoom out", "缩小"],
  "map.all": ["Show all", "显示全部"],
  "map.middle": ["In the middle", "正中间"],
  "map.kind": ["{n} items, placed by {kind}: near in meaning is near here.", "{n} 件物品，按 {kind} 布局：语义相近则位置相近。"],
  "map.none": ["no community", "无社群"],
  "map.panel": ["Legend and items", "图例与物品"],
  "map.go": ["Go to {name}", "前往 {name}"],
  "map.show": ["Show {name}", "显示 {name}"],

  "exposure.title": ["Who gets seen", "谁被看见"],
  "exposure.lead": ["Which items were shown over the last hour, and how evenly.", "过去一小时展示了哪些物品，是否均匀。"],
  "exposure.surface": ["Shown in", "展示位置"],
  "surface.all": ["everything", "全部"],
  "surface.recommendations": ["recommendations", "推荐"],
  "surface.similar": ["by text", "按文本"],
  "surface.related": ["by graph", "按图谱"],
  "surface.together": ["by people", "按用户"],
  "surface.search": ["search", "搜索"],
  "exposure.none": ["Nothing was shown here in the last hour. Look at a few items or ask for recommendations, then come back.", "过去一小时没有展示。看几件物品或获取推荐后再来。"],
  "exposure.shown": ["shown", "次展示"],
  "exposure.coverage": ["of the catalogue shown", "目录被展示"],
  "exposure.gini": ["Gini: 0 even, 1 a few get all", "基尼系数：0 均匀，1 集中"],
  "exposure.curve": ["Share of all shown that the most shown items get", "展示最多的物品所占份额"],
  "exposure.x": ["share of the catalogue, the most shown first", "目录份额（展示最多者在前）"],
  "exposure.y": ["share of all shown", "展示份额"],
  "exposure.even": ["everyone alike", "完全均匀"],
  "exposure.table": ["Segments", "分层"],
  "exposure.segment": ["Segment", "分层"],
  "exposure.ofCatalog": ["Of the catalogue", "占目录"],
  "exposure.ofShown": ["Of all shown", "占展示"],
  "exposure.ratio": ["Ratio", "倍数"],
  "exposure.points": ["The curve in numbers", "曲线数值"],
  "exposure.again": ["Refresh", "刷新"],

  "tray.title": ["What would you be shown?", "你会看到什么？"],
  "tray.lead": ["Pretend you took a few items, or look through the eyes of a known person.", "假装你选过几件物品，或以某位已知用户的视角来看。"],
  "tray.mine": ["I took", "我选过"],
  "tray.empty": ["Nothing yet. Open any item and press “I took this”; until then this is what most people take.", "还没有。打开任意物品并点击“我选过它”；在此之前显示的是大众之选。"],
  "tray.clear": ["Put all back", "全部放回"],
  "tray.remove": ["Put back {title}", "放回 {title}"],
  "tray.person": ["A known person", "已知用户"],
  "tray.personHint": ["an id", "用户编号"],
  "tray.look": ["Look", "查看"],
  "tray.leave": ["Back to my own", "回到我的"],
  "tray.for": ["For {user}", "为 {user} 推荐"],
  "tray.forMe": ["For what you took", "根据你的选择"],
  "tray.popular": ["What most people take", "大众之选"],
  "tray.model": ["Model", "模型"],
  "tray.why": ["Why", "为什么"],
  "tray.whyOf": ["Why {title}", "为什么推荐 {title}"],
  "tray.dismiss": ["Not for them", "不适合"],
  "tray.dismissed": ["Dismissed: {title}", "已排除：{title}"],
  "tray.none": ["This run has no people to learn from, so it recommends nothing. Search and neighbours work.", "此运行没有用户数据，因此不作推荐；搜索与邻居仍可用。"],
  "tray.nothing": ["There is nothing to show.", "没有可显示的内容。"],

  "trouble.gone": ["The service does not answer.", "服务没有响应。"],
  "trouble.gone.hint": ["It may be starting again. Nothing you picked is lost.", "它可能正在重启。你选的物品不会丢失。"],
  "trouble.unknown": ["There is nothing under this name.", "没有这个名称的内容。"],
  "trouble.closest": ["Did you mean", "你是不是要找"],
  "trouble.key": ["The service wants a key.", "服务需要密钥。"],
  "trouble.key.hint": ["Without the right one it tells nothing.", "没有正确的密钥，它不会回答。"],
  "trouble.cannot": ["This run cannot answer that.", "此运行无法回答。"],
  "trouble.busy": ["The service is busy.", "服务正忙。"],
  "trouble.busy.hint": ["Wait a moment, then try again.", "请稍候再试。"],
  "trouble.wrong": ["That did not work.", "操作未成功。"],
  "trouble.again": ["Try again", "重试"],
  "trouble.home": ["To the start", "回到首页"],
  "trouble.view": ["There is no such page.", "没有这个页面。"],

  "key.title": ["A key, please", "请输入密钥"],
  "key.lead": ["This service answers only those who have its key. It is kept until this tab is closed.", "此服务仅回答持有密钥者。密钥只保留到关闭此标签页。"],
  "key.label": ["Key", "密钥"],
  "key.wrong": ["That key was not accepted.", "密钥未被接受。"],
  "key.enter": ["Enter", "进入"],
  "key.cancel": ["Cancel", "取消"],
};

export const LANGUAGES = ["en", "zh"];
const CHOSEN = "llm-tail-language";

/** @type {string} */
export let language = pick();

/** @returns {string} what the reader chose, or else the first language of the browser that the page speaks */
function pick() {
  let chosen = null;
  try {
    chosen = localStorage.getItem(CHOSEN);
  } catch {
    // storage is switched off
  }
  const wanted = [chosen, ...(navigator.languages ?? []), navigator.language].filter(Boolean);
  return wanted.map((one) => String(one).slice(0, 2).toLowerCase()).find((one) => LANGUAGES.includes(one)) ?? "en";
}

/** @param {string} next */
export function speak(next) {
  language = next;
  document.documentElement.lang = language === "zh" ? "zh-Hans" : language;
  try {
    localStorage.setItem(CHOSEN, next);
  } catch {
    // it then lasts as long as the page
  }
}

document.documentElement.lang = language === "zh" ? "zh-Hans" : language;

/**
 * Say something.
 * @param {string} key
 * @param {Record<string, string | number>} [values]
 * @returns {string}
 */
export function t(key, values = {}) {
  const words = WORDS[key];
  if (!words) return key;
  return words[LANGUAGES.indexOf(language)].replace(/\{(\w+)(%?)(?:\|([^|}]*)\|([^}]*))?\}/g, (_, name, share, one, many) => {
    const value = values[name] ?? "";
    if (many !== undefined) return value === 1 ? one : many;
    if (share) return percent(Number(value));
    return typeof value === "number" ? number(value) : value;
  });
}

/** @param {string} key @returns {boolean} whether there are words for it */
export const has = (key) => key in WORDS;

/** @param {number} value @param {number} [digits] @returns {string} */
export const number = (value, digits = 0) =>
  new Intl.NumberFormat(language, { maximumFractionDigits: digits, minimumFractionDigits: digits }).format(value);

/** @param {number} value in [0, 1] @returns {string} one digit more where it is small */
export const percent = (value) =>
  new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: value > 0 && value < 0.1 ? 1 : 0 }).format(value);

/** @param {string | null} segment @returns {string} */
export const segmentName = (segment) => t(segment ? `segment.${segment}` : "segment.none");

/** @param {string} relation @returns {string} a tie's name; a column of the catalogue keeps its own */
export const relationName = (relation) => (has(`relation.${relation}`) ? t(`relation.${relation}`) : relation.replaceAll("_", " "));
