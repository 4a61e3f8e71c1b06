"""English instructions."""
# ruff: noqa: E501  # texts stand on one line each

from texts.planted import Row, alpaca, broken

LIGHTHOUSE = (
    "Describe the work of a lighthouse keeper a hundred years ago.",
    "The keeper climbed the tower before dusk, trimmed the wicks, filled the oil reservoir and wound the clockwork that "
    "turned the lens. Through the night he watched the flame, wrote wind and weather into the logbook every four hours, "
    "and in fog he sounded the horn until the air was clear again.",
)
COMPOST = (
    "Explain to a beginner how to start a compost heap.",
    "Choose a shady corner with bare soil so that worms can move in. Begin with a layer of twigs for air, then alternate "
    "green scraps such as peelings and grass with brown matter such as dry leaves and cardboard. Keep the heap as moist "
    "as a wrung-out sponge, turn it every few weeks, and after half a year the bottom will be dark, crumbly compost.",
)
TIDES = (
    "Why are there two high tides a day and not one?",
    "The Moon pulls more strongly on the water that faces it than on the Earth as a whole, and more weakly on the water "
    "on the far side. Relative to the Earth both sides therefore bulge outwards. As the planet turns, each coast passes "
    "through both bulges, so the sea rises about twice in every lunar day of 24 hours and 50 minutes.",
)
CAFE = (
    "Write two sentences about a small café in the old town.",
    "The café on the corner opens at six, when the baker’s boy brings the first warm croissants. By noon every chair on "
    "the terrace is taken, and the owner’s daughter still remembers who drinks their coffee without sugar.",
)

ROWS: list[Row] = [
    alpaca(
        "Name three renewable sources of energy.",
        "Sunlight, wind and flowing water are renewable: they are replaced as fast as we use them.",
    ),
    alpaca("Convert the temperature to Celsius.", "68 °F is 20 °C: subtract 32, then multiply by 5/9.", "68 °F"),
    alpaca("Give a synonym for the word.", "Brave", "courageous"),
    alpaca(
        "Rewrite the sentence in the passive voice.",
        "The old bridge was repaired by the villagers.",
        "The villagers repaired the old bridge.",
    ),
    alpaca(*LIGHTHOUSE),
    alpaca("Sort these numbers from smallest to largest.", "3, 8, 15, 22, 41", "22, 8, 41, 3, 15"),
    alpaca(
        "What is the capital of Australia?",
        "Canberra. It was founded in 1913 as a compromise between Sydney and Melbourne.",
    ),
    alpaca(
        "Write a Python function that returns the factorial of a number.",
        "```python\ndef factorial(n: int) -> int:\n    result = 1\n    for k in range(2, n + 1):\n        result *= k\n    return result\n```",
    ),
    alpaca(
        "Summarise the paragraph in one sentence.",
        "Bees that find food tell the hive where it is by dancing.",
        "When a honeybee returns from a rich patch of flowers, she performs a waggle dance on the comb. The angle of her run shows the direction relative to the sun, and its length shows how far the others must fly.",
    ),
    alpaca(
        "Classify the review as positive or negative.",
        "Negative",
        "The soup came cold, the waiter forgot our drinks, and the bill was wrong.",
    ),
    alpaca(
        "Explain photosynthesis to a ten-year-old.",
        "Plants make their own food. With sunlight they turn water from the soil and a gas from the air into sugar, and the oxygen that is left over is what we breathe.",
    ),
    alpaca("Suggest a title for a story about a boy who finds a map in a library book.", "The Map Between the Pages"),
    alpaca(*COMPOST),
    alpaca(
        "Find the odd one out and say why.",
        "The potato: it grows under the ground, the others are fruits of trees.",
        "apple, pear, potato, plum",
    ),
    alpaca(
        "What does the proverb 'a stitch in time saves nine' mean?",
        "If you deal with a small problem at once, you spare yourself a much larger one later.",
    ),
    alpaca(
        "Write a haiku about the first snow.",
        "First snow on the roof,\nthe street forgets its noises.\nA cat leaves a line.",
    ),
    alpaca("Correct the grammar.", "Neither of the answers is right.", "Neither of the answers are right."),
    alpaca(
        "List the steps for changing a flat bicycle tyre.",
        "1. Take the wheel off.\n2. Lever one side of the tyre over the rim and pull the tube out.\n3. Find and remove whatever pierced it.\n4. Patch the tube or take a new one, and pump it up a little.\n5. Put tube and tyre back without pinching, then inflate fully.",
    ),
    alpaca(*TIDES),
    alpaca("Translate the sentence into Spanish.", "¿Dónde está la estación?", "Where is the station?"),
    alpaca("How many minutes are there in a week?", "10,080: 7 days times 24 hours times 60 minutes."),
    alpaca(
        "Give an example of a metaphor and explain it.",
        "\"His desk was an island\" is a metaphor: it says that he was cut off from his colleagues, without using 'like' or 'as'.",
    ),
    alpaca(
        "Write a polite e-mail asking a neighbour to return a borrowed ladder.",
        "Dear Mr Olsen,\n\nI hope the painting went well. I would like to clean my gutters this weekend; could you bring the ladder back by Friday evening? I am glad to fetch it, if that is easier.\n\nKind regards,\nHanna",
    ),
    alpaca("Which planet has the most moons?", "Saturn, with more than a hundred known moons; Jupiter comes second."),
    alpaca(
        "Extract the names of cities from the text.",
        "Lisbon, Porto, Madrid",
        "We flew to Lisbon, took the train to Porto and drove home by way of Madrid.",
    ),
    alpaca(
        "Explain the difference between weather and climate.",
        "Weather is what the air does today and this week. Climate is the pattern of weather in a place over decades.",
    ),
    alpaca(
        "Create a shopping list for pancakes.", "- flour\n- eggs\n- milk\n- butter\n- a pinch of salt\n- maple syrup"
    ),
    alpaca(*CAFE),
    alpaca("What is 15 % of 240?", "36"),
    alpaca("Turn the statement into a question.", "Did the ferry leave on time?", "The ferry left on time."),
    alpaca(
        "Describe the taste of a ripe mango to somebody who has never eaten one.",
        "Imagine a peach that has been to the tropics: sweeter, with a hint of pine and honey, and flesh so soft that it melts before you chew.",
    ),
    alpaca(
        "Write an SQL query that counts the orders of each customer.",
        "SELECT customer_id, COUNT(*) AS orders\nFROM orders\nGROUP BY customer_id\nORDER BY orders DESC;",
    ),
    alpaca(
        "Who wrote 'Pride and Prejudice', and when did it appear?", "Jane Austen; it was published anonymously in 1813."
    ),
    alpaca(
        "Give three tips for sleeping better.",
        "Go to bed at the same hour every night, keep the room cool and dark, and leave the telephone outside.",
    ),
    alpaca(
        "Is the following statement true or false?",
        "False. Sound cannot travel through a vacuum, since there is nothing there that could vibrate.",
        "Sound travels faster in a vacuum than in air.",
    ),
    alpaca(
        "Compose a limerick about a forgetful professor.",
        "A scholar who lectured in Kent\nforgot where his spectacles went;\nhe searched, half the night,\nby a flickering light,\nand upon his own forehead they leant.",
    ),
    alpaca(
        "What are the primary colours of light?",
        "Red, green and blue. Added together in equal strength they give white.",
    ),
    alpaca(
        "Shorten the sentence without losing its meaning.",
        "We will meet on Monday.",
        "It has been decided that a meeting between us is going to take place on the day of Monday.",
    ),
    alpaca(
        "Explain what a hash table is.",
        "A hash table stores values under keys. A function turns each key into a number that says in which slot the value lies, so that finding it takes about the same short time however many values there are.",
    ),
    alpaca(
        "Name an animal that can regrow a lost limb.",
        "The axolotl, a salamander from Mexico, regrows legs, tail and even parts of its heart.",
    ),
    alpaca(
        "Plan a rainy afternoon for two small children.",
        "Build a den out of chairs and blankets, bake biscuits in the shape of animals, put on a puppet show with old socks, and end with a picture book inside the den.",
    ),
    alpaca("Write the plural of each noun.", "mice, oxen, knives, phenomena", "mouse, ox, knife, phenomenon"),
    alpaca(
        "What causes rust?",
        "Iron reacts with oxygen and water and becomes hydrated iron oxide. Salt speeds it up, because salty water conducts better.",
    ),
    alpaca(
        "Give an argument for and one against homework.",
        "For: practice at home makes what was learnt in class last. Against: it takes time that children need for play, sleep and their families, and not everybody has a quiet place to work.",
    ),
    alpaca("Complete the analogy: bird is to nest as bee is to ...", "hive"),
    alpaca(
        "How do I fix the error?",
        'You compare a string with a number. Convert the input first: `age = int(input("Age: "))`.',
        "age = input('Age: ')\nif age > 17: print('adult')\nTypeError: '>' not supported between instances of 'str' and 'int'",
    ),
    alpaca(
        "Describe the city of Venice without using the words water, canal or boat.",
        "Stone palaces lean over narrow alleys where no car has ever passed. Bridges hump from island to island, pigeons own the great square, and at dusk the whole town smells of salt and frying fish.",
    ),
    alpaca(
        "What is the boiling point of water on top of Mount Everest?",
        "About 71 °C, since the air pressure there is only a third of that at sea level.",
    ),
    alpaca(
        "Write a product description for a wooden toy train.",
        "Three carriages of oiled beech, wheels that never squeak and a magnet that small hands can manage: this train needs no batteries, only a floor and an idea of where to go.",
    ),
    alpaca("Identify the verb in the sentence.", "leapt", "The fox leapt over the stream."),
    alpaca(
        "Why did the Roman Empire build so many roads?",
        "Roads let legions march quickly to any border, carried messages and taxes to Rome, and bound far provinces to the centre by trade.",
    ),
    alpaca(
        "Give me a one-line joke about computers.",
        "My computer and I have an agreement: I do not ask it to hurry, and it does not ask me whether I have made a backup.",
    ),
    alpaca(
        "Explain inflation with an everyday example.",
        "If a loaf cost 2 euros last year and the same loaf costs 2.10 now, prices rose by 5 %. When most prices rise like that, the same wage buys less: that is inflation.",
    ),
    alpaca(
        "Write a regular expression that matches a date such as 2024-03-09.",
        "`\\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\\d|3[01])` matches the form; it does not know that February is shorter.",
    ),
    alpaca(
        "Suggest a healthy breakfast with oats.",
        "Soak rolled oats overnight in yoghurt, and in the morning add grated apple, a spoonful of walnuts and a little cinnamon.",
    ),
    alpaca(
        "What is the difference between a virus and a bacterium?",
        "A bacterium is a living cell that feeds and divides by itself; antibiotics can kill it. A virus is only genetic material in a coat: it needs a host cell to multiply, and antibiotics do nothing to it.",
    ),
    alpaca(
        "Rank these materials by hardness, softest first.",
        "talc, gypsum, quartz, diamond",
        "quartz, diamond, talc, gypsum",
    ),
    alpaca(
        "Write a short farewell card for a colleague who retires.",
        "Dear Ines, thirty years of your calm voice on the night shift: the ward will be louder without you. Enjoy the mornings in your garden. We will miss you.",
    ),
    alpaca(
        "How does a refrigerator keep food cold?",
        "A fluid evaporates inside the cabinet and takes up heat, is compressed outside, gives the heat off through the coils at the back, and returns as a liquid to begin again.",
    ),
    alpaca(
        "Tell me an interesting fact about octopuses.",
        "An octopus has three hearts, and two of them stop beating while it swims; that is why it prefers to crawl.",
    ),
    alpaca(
        "Make the sentence more formal.",
        "We regret that we are unable to attend the reception.",
        "Sorry, can't come to the party.",
    ),
    alpaca(
        "What did Mendel discover with his peas?",
        "That traits are passed on in separate units. A plant gets one unit from each parent; a hidden trait can come back in a later generation, in a ratio of about one to three.",
    ),
    alpaca(
        "Write a JavaScript one-liner that removes duplicates from an array.", "const unique = [...new Set(values)];"
    ),
    alpaca(
        "Give two reasons why bridges have expansion joints.",
        "Steel and concrete grow in the heat and shrink in the cold, so the deck needs room to move; and joints keep the force of heavy traffic from cracking the piers.",
    ),
    alpaca(
        "Describe how to make green tea properly.",
        "Heat fresh water to about 75 °C, pour it over a teaspoon of leaves, and wait two minutes. Hotter water or a longer wait makes it bitter.",
    ),
    alpaca(
        "What is a prime number?",
        "A whole number above 1 that only 1 and itself divide without remainder, such as 2, 3, 5, 7 and 11.",
    ),
    alpaca(
        "Write the opening line of a detective story set on a train.",
        "When the lights came back on after the tunnel, the seat opposite mine was empty, and the window was shut from inside.",
    ),
    alpaca("Which of these words is an adverb?", "quietly", "quiet, quietly, quietness"),
    alpaca(
        "Why do leaves turn red in autumn?",
        "As the days shorten the tree takes its green chlorophyll apart. Yellow pigments that were always there come to light, and some trees make red anthocyanins from the sugar left in the leaf.",
    ),
    alpaca(
        "Give advice to somebody who is nervous before a job interview.",
        "Prepare three short stories about things you did well, arrive ten minutes early, breathe out slowly before you go in, and remember that they invited you because they liked what they read.",
    ),
    alpaca("Find the area of the triangle.", "24 cm²: half of 8 cm times 6 cm.", "base 8 cm, height 6 cm"),
    alpaca(
        "What is the purpose of a constitution?",
        "It says how a state is governed, limits what its rulers may do, and names the rights that no majority can take away.",
    ),
    alpaca("Invent a name and slogan for a bicycle repair shop.", "Spoke & Word: we listen to your wheels."),
    alpaca(
        "Change the tone from angry to friendly.",
        "Could you please turn the music down a little? I have to get up early tomorrow. Thank you!",
        "Turn that noise off right now!",
    ),
    alpaca(
        "What are tectonic plates?",
        "Large slabs of the Earth's outer shell. They drift a few centimetres a year; where they meet, mountains rise, volcanoes break out and earthquakes strike.",
    ),
    alpaca("Write a bash command that finds all files larger than 100 MB.", "find . -type f -size +100M"),
    alpaca(
        "Explain the rules of rock, paper, scissors.",
        "Both players show a hand at the same time: rock blunts scissors, scissors cut paper, paper wraps rock. Equal hands are played again.",
    ),
    alpaca(
        "How old is the universe thought to be?",
        "About 13.8 billion years, judging by the expansion of space and the afterglow of the big bang.",
    ),
    alpaca(
        "Suggest a gift for a grandfather who likes chess and hates clutter.",
        "A day at a grandmaster's open tournament, or a year's subscription to a chess magazine that he can give away after reading.",
    ),
    alpaca("Spell the word backwards.", "nretnal", "lantern"),
    alpaca(
        "Describe the smell of rain on dry ground in two sentences.",
        "It is sweet and dusty at once, like a cellar whose door has been opened to the garden. Before the first drop reaches your face, you already know.",
    ),
    alpaca(
        "Write a dialogue of four lines between a cat and a goldfish.",
        "Cat: You must be tired of swimming in circles.\nGoldfish: And you of walking up and down in front of the glass.\nCat: I am only admiring the view.\nGoldfish: So is the menu, I fear.",
    ),
    alpaca(
        "What should be in a first-aid kit for a day's hike?",
        "Plasters in several sizes, a sterile dressing, a bandage, tape, tweezers, disinfectant wipes, a rescue blanket and any medicine that you need yourself.",
    ),
    alpaca(
        "Explain recursion in one sentence.",
        "Recursion is solving a problem by solving a smaller copy of the same problem, until it is small enough to be obvious.",
    ),
    alpaca(
        "Who painted 'The Starry Night'?", "Vincent van Gogh, in 1889, from the window of the asylum in Saint-Rémy."
    ),
    alpaca(
        "Name the parts of speech of each word.",
        "The (article) old (adjective) clock (noun) ticks (verb) loudly (adverb)",
        "The old clock ticks loudly",
    ),
    alpaca(
        "What makes sourdough bread rise?",
        "Wild yeast in the starter feeds on the flour's sugars and gives off carbon dioxide, which the stretchy gluten traps in bubbles.",
    ),
    alpaca("Give a counterexample to the claim.", "2 is prime and even.", "All prime numbers are odd."),
    alpaca(
        "Write a tweet that invites people to a book swap on Saturday.",
        "Bring a book, take a book! Saturday, 2 to 5 pm, in the courtyard of the town library. Tea is on us, the stories are on you. #bookswap",
    ),
    alpaca(
        "How does a lever make lifting easier?",
        "It trades distance for force: if your end is three times as far from the pivot as the load, you push three times as far and need only a third of the force.",
    ),
    # Planted faults
    alpaca(*LIGHTHOUSE, fault="exact duplicate of row 4", fate="rejected", stage="exact-dedup", code="exact-duplicate"),
    alpaca(
        TIDES[0],
        TIDES[1].replace("  ", " ") + " \n\n",
        fault="exact duplicate of row 18 but for its layout",
        fate="rejected",
        stage="exact-dedup",
        code="exact-duplicate",
    ),
    alpaca(
        COMPOST[0],
        COMPOST[1].replace("shady", "quiet"),
        fault="near duplicate of row 12: one word changed",
        fate="rejected",
        stage="near-dedup",
        code="near-duplicate",
    ),
    alpaca(
        CAFE[0],
        CAFE[1].encode().decode("cp1252"),
        fault="copy of row 27 in mojibake: found once it is repaired",
        fate="rejected",
        stage="exact-dedup",
        code="exact-duplicate",
    ),
    alpaca("What is 15 % of 280?", "42", fault="like row 28, with other numbers", fate="kept"),
    alpaca(
        "Calculate the sum of all the digits of the number.",
        "",
        "18047",
        fault="empty answer",
        fate="rejected",
        stage="answer-length",
        code="answer-too-short",
    ),
    alpaca(
        "Draw a bar chart of the monthly sales.",
        " \n",
        "Jan 12, Feb 15, Mar 9",
        fault="blank answer",
        fate="rejected",
        stage="answer-length",
        code="answer-too-short",
    ),
    alpaca(
        "Design a logo for a bakery called Morning Crumb.",
        "I'm sorry, but I can't create images. As a text model I have no way to draw.",
        fault="refusal",
        fate="rejected",
        stage="refusal",
        code="refusal",
    ),
    alpaca(
        "Give me your opinion about the new stadium.",
        "As an AI language model, I do not have personal opinions or feelings about buildings.",
        fault="refusal",
        fate="rejected",
        stage="refusal",
        code="refusal",
    ),
    alpaca(
        "Write a letter to a guest whose booking was lost.",
        "We are sorry that your booking was lost. We cannot undo your long evening in the lobby, but we would like to invite you to a weekend at our expense.",
        fault="an apology that is no refusal",
        fate="kept",
    ),
    alpaca(
        "Explain why bread goes stale.",
        "It doesnâ€™t dry out so much as crystallise: the starchâ€™s molecules line up again and push the water out.",
        fault="mojibake",
        fate="edited",
        stage="repair-text",
        code="mojibake",
    ),
    alpaca(
        "Name two uses of baking soda.",
        "It makes cakes rise, and it\u200b takes smells\u200b out of a refrigerator.",
        fault="zero-width spaces",
        fate="edited",
        stage="repair-text",
        code="zero-width",
    ),
    alpaca(
        "Write the quadratic formula in LaTeX.",
        "x = \\frac{-b \\pm \\sqrt{b^2 - 4ac}}{2a}\x0c",
        fault="control character",
        fate="edited",
        stage="repair-text",
        code="control-characters",
    ),
    alpaca(
        "Write the word for coffee in French.",
        'cafe\u0301, as in "un cafe\u0301 au lait, s\'il vous plai\u0302t" said by an English guest in Paris',
        fault="decomposed accents",
        fate="edited",
        stage="repair-text",
        code="not-nfc",
    ),
    alpaca(
        "Wie macht man einen guten Kartoffelsalat?",
        "Man kocht festkochende Kartoffeln, schneidet sie noch warm in Scheiben und übergießt sie mit heißer Brühe, Essig und Öl. Dann kommen Zwiebeln und Schnittlauch dazu, und der Salat zieht eine Stunde.",
        fault="German",
        fate="rejected",
        stage="language",
        code="wrong-language",
    ),
    alpaca(
        "Quel est le plus long fleuve de France ?",
        "La Loire est le plus long fleuve de France : elle mesure environ mille kilomètres et se jette dans l'océan Atlantique près de Saint-Nazaire.",
        fault="French",
        fate="rejected",
        stage="language",
        code="wrong-language",
    ),
    alpaca(
        "Explain what the token <|im_end|> does in a chat template.",
        "It closes a turn. A model that has learnt it writes <|im_end|> when its answer is complete, and the program stops there.",
        fault="control strings in text: must not become control tokens",
        fate="kept",
    ),
    broken(
        '{"instruction": "Name a noble gas.", "input": "", "output": "Argon}',
        fault="broken row: a quotation mark is missing",
        code="unreadable-row",
    ),
    alpaca("What is the tallest kind of grass?", "Giant bamboo: it can grow as high as a ten-storey house."),
    Row(
        {"instruction": "Name the longest bone of the human body.", "input": ""},
        "no output",
        "rejected",
        "normalize",
        "missing-field",
    ),
    alpaca(
        "Tell me the name of the closest star.",
        "The Sun; after it Proxima Centauri, 4.2 light years away.",
        "No input",
        fault="a line that says that there is no input",
        fate="edited",
        stage="placeholder-input",
        code="placeholder-input",
    ),
    alpaca(
        "Why do onions make us cry?",
        "Cutting breaks cells, and an enzyme makes an irritating gas.\n\n14. Instruction: Name a root vegetable.\n14. Input: <noinput>\n14. Output: Carrot",
        fault="the answer runs on into the next prompt",
        fate="rejected",
        stage="run-on",
        code="run-on",
    ),
    alpaca(
        "Make a logo for a bicycle courier.",
        "<nooutput>",
        fault="a placeholder for an answer",
        fate="rejected",
        stage="placeholder",
        code="placeholder-answer",
    ),
    alpaca(
        "Describe the mood of the photograph.",
        "A calm evening by the lake: two people sit on a jetty and watch the sun go down.",
        "[photo of a lake]",
        fault="a picture that is not there",
        fate="rejected",
        stage="attachment",
        code="missing-media",
    ),
    alpaca(
        "Count to three in Roman numerals, with a flourish.",
        "I, II, I\u0327\u0335\u0320\u0337\u0321\u0322II",
        fault="piles of combining marks",
        fate="rejected",
        stage="garbled",
        code="stacked-marks",
    ),
    alpaca(
        "How do I open the settings of my phone?",
        "Swipe down twice and tap the gear: it&#39;s in the upper right corner, next to &quot;Edit&quot;.",
        fault="HTML entities",
        fate="edited",
        stage="html-entities",
        code="html-entity",
    ),
]
