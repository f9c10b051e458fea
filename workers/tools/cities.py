"""Cities and countries that no IANA time zone is named after, with their zones. Entered by the clock.

A country with several zones has that of its capital.
"""

from __future__ import annotations

from typing import Final

_NAMES: Final = """
Africa/Cairo: Alexandria, Egypt
Africa/Casablanca: Marrakesh, Rabat, Morocco
Africa/Johannesburg: Cape Town, Durban, Pretoria, South Africa
Africa/Lagos: Abuja, Nigeria
Africa/Nairobi: Mombasa, Kenya
Africa/Addis_Ababa: Ethiopia
America/Argentina/Buenos_Aires: Argentina
America/Bogota: Medellin, Colombia
America/Chicago: Austin, Dallas, Houston, Kansas City, Memphis, Milwaukee, Minneapolis, Nashville, New Orleans,
    San Antonio, St Louis, Texas
America/Denver: Salt Lake City, Santa Fe, Colorado
America/Edmonton: Calgary
America/Lima: Peru
America/Los_Angeles: California, Hollywood, Las Vegas, Oakland, Palo Alto, Portland, Sacramento, San Diego, San
    Francisco, San Jose, Seattle, Silicon Valley
America/Mexico_City: Guadalajara, Mexico
America/New_York: Atlanta, Baltimore, Boston, Brooklyn, Charlotte, Cleveland, Florida, Manhattan, Miami, New
    York City, NYC, Orlando, Philadelphia, Pittsburgh, US, USA, United States, Washington, Washington DC
America/Santiago: Chile
America/Sao_Paulo: Brasilia, Brazil, Rio, Rio de Janeiro
America/Toronto: Canada, Montreal, Ottawa, Quebec
Asia/Bangkok: Chiang Mai, Phuket, Thailand
Asia/Dhaka: Bangladesh
Asia/Dubai: Abu Dhabi, Emirates, UAE, United Arab Emirates
Asia/Ho_Chi_Minh: Hanoi, Saigon, Vietnam
Asia/Jakarta: Indonesia
Asia/Jerusalem: Israel
Asia/Karachi: Islamabad, Lahore, Pakistan
Asia/Kolkata: Bangalore, Bengaluru, Chennai, Delhi, Hyderabad, India, Mumbai, New Delhi, Pune
Asia/Kuala_Lumpur: Malaysia
Asia/Makassar: Bali
Asia/Manila: Cebu, Philippines
Asia/Riyadh: Jeddah, Mecca, Saudi Arabia
Asia/Seoul: Busan, Korea, South Korea
Asia/Shanghai: Beijing, Peking, China, Guangzhou, Hangzhou, Nanjing, Shenzhen, Wuhan
Asia/Tehran: Iran
Asia/Tokyo: Hiroshima, Kobe, Kyoto, Nagoya, Osaka, Sapporo, Yokohama, Japan
Atlantic/Reykjavik: Iceland
Australia/Brisbane: Gold Coast, Queensland
Australia/Sydney: Australia, Canberra
Europe/Amsterdam: Den Haag, Eindhoven, Netherlands, Holland, Rotterdam, The Hague, Utrecht
Europe/Athens: Greece, Thessaloniki
Europe/Belgrade: Serbia
Europe/Berlin: Bonn, Bremen, Cologne, Dortmund, Dresden, Dusseldorf, Frankfurt, Germany, Hamburg, Hannover,
    Koln, Leipzig, Munich, Munchen, Nuremberg, Stuttgart
Europe/Brussels: Antwerp, Belgium, Bruges, Ghent
Europe/Bucharest: Romania
Europe/Budapest: Hungary
Europe/Copenhagen: Denmark
Europe/Dublin: Cork, Ireland
Europe/Helsinki: Finland
Europe/Istanbul: Ankara, Izmir, Turkey
Europe/Kyiv: Ukraine
Europe/Lisbon: Porto, Portugal
Europe/London: Birmingham, Bristol, Britain, Cambridge, Cardiff, Edinburgh, England, Glasgow, Great Britain,
    Leeds, Liverpool, Manchester, Oxford, Scotland, UK, United Kingdom, Wales
Europe/Luxembourg: Luxemburg
Europe/Madrid: Barcelona, Bilbao, Malaga, Seville, Spain, Valencia
Europe/Moscow: Russia, Saint Petersburg, St Petersburg
Europe/Oslo: Bergen, Norway
Europe/Paris: Bordeaux, France, Lille, Lyon, Marseille, Nice, Strasbourg, Toulouse
Europe/Prague: Brno, Czechia, Czech Republic
Europe/Rome: Bologna, Florence, Genoa, Italy, Milan, Naples, Palermo, Turin, Venice
Europe/Sofia: Bulgaria
Europe/Stockholm: Gothenburg, Malmo, Sweden
Europe/Vienna: Austria, Graz, Innsbruck, Linz, Salzburg, Wien
Europe/Warsaw: Gdansk, Krakow, Poland, Wroclaw
Europe/Zagreb: Croatia
Europe/Zurich: Basel, Bern, Geneva, Lausanne, Switzerland
Pacific/Auckland: Christchurch, New Zealand, Wellington
Pacific/Honolulu: Hawaii
UTC: GMT, Greenwich
"""

CITY_ZONES: Final = {
    name.strip(): zone
    for zone, names in (line.split(": ") for line in _NAMES.replace("\n    ", " ").strip().splitlines())
    for name in names.split(", ")
}
"""The zone of each name."""
