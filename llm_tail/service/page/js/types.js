/**
 * The service's answers, as far as the page reads them; llm_tail/service/answers.py is what they follow.
 *
 * @typedef {"head" | "tail" | "cold"} Segment
 * @typedef {{ item_id: string, title: string, description: string, fields: Record<string, unknown>,
 *   segment: Segment | null, n_interactions: number, upserted: boolean, row: number | null }} Item
 * @typedef {{ item_id: string, title: string, score: number, segment: Segment | null, n_interactions: number,
 *   why: string | null }} ShownItem
 * @typedef {{ item_id: string, title: string, segment: Segment | null }} Suggestion
 * @typedef {{ item_id: string, title: string, share: number }} Lender
 * @typedef {{ item_id: string, title: string, score: number }} Reason
 * @typedef {{ user: string, score: number }} Reader
 * @typedef {{ item_id: string, title: string, user: string | null, score: number, own_share: number,
 *   borrowed_share: number, text_share: number, lenders: Lender[], because: Reason[], readers: Reader[] }} Explanation
 * @typedef {{ item_id: string, title: string, segment: Segment | null, community: number, hops: number,
 *   weight: number }} GraphNode
 * @typedef {{ source: string, target: string, relation: string, weight: number }} GraphEdge
 * @typedef {{ item_id: string, nodes: GraphNode[], edges: GraphEdge[] }} Graph
 * @typedef {{ dtype: "uint8" | "uint16", data: string, low: number, high: number, names: string[] }} Column
 * @typedef {{ n_items: number, x: Column, y: Column, segment: Column, community: Column, kind: string }} MapAnswer
 * @typedef {{ row: number, item_id: string, title: string }} MapItem
 * @typedef {{ head: number, tail: number, cold: number }} Shares
 * @typedef {{ surface: string, n_shown: number, shares: Shares, catalog: Shares, coverage: number,
 *   curve: [number, number][], gini: number }} Exposure
 * @typedef {{ name: string, kind: "text" | "number" | "list" | "flag" | "date", values: string[],
 *   low: number | null, high: number | null }} ColumnInfo
 * @typedef {{ name: string, version: string, n_items: number, n_people: number, n_upserted: number,
 *   n_feedback: number, models: string[], encoders: string[], encoder: string, runtime: string, dim: number,
 *   segments: Partial<Record<Segment, number>>, relations: string[], hows: string[], columns: ColumnInfo[],
 *   communities: number, max_k: number, loaded: string }} Info
 * @typedef {{ user: string | null, model: string, from_popularity: boolean, items: ShownItem[] }} Recommended
 */

/** @type {Segment[]} in the order in which they are always shown */
export const SEGMENTS = ["head", "tail", "cold"];
