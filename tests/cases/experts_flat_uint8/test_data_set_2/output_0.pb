 J€”§+Gù¿BGû'-G¶<G’GÉv2G.îGq)G®îGÔbQG)¥ÍF
G%Ã'G<µ+GÓS5G«GÂÇ6Gb?GîG)GG‹3G˜&GÓ0GFGéJ6G_ÄGjõG8~þFnðFB“Gÿ GŸÑXG”§+Gù¿BGû'-G¶<G’GÉv2G.îGq)G®îGÔbQG)¥ÍF
G%Ã'G<µ+GÓS5G«GÂÇ6Gb?GîG)GG‹3G˜&GÓ0GFGéJ6G_ÄGjõG8~þFnðFB“Gÿ GŸÑXG”§+Gù¿BGû'-G¶<G’GÉv2G.îGq)G®îGÔbQG)¥ÍF
G%Ã'G<µ+GÓS5G«GÂÇ6Gb?GîG)GG‹3G˜&GÓ0GFGéJ6G_ÄGjõG8~þFnðFB“Gÿ GŸÑXG”§+Gù¿BGû'-G¶<G’GÉv2G.îGq)G®îGÔbQG)¥ÍF
G%Ã'G<µ+GÓS5G«GÂÇ6Gb?GîG)GG‹3G˜&GÓ0GFGéJ6G_ÄGjõG8~þFnðFB“Gÿ GŸÑXG